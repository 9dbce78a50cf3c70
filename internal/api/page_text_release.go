package api

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/penstock-ci/penstock/internal/store"
)

// environmentText is what serves in an environment, what is under way, and what was released, as text.
func (s *Server) environmentText(w http.ResponseWriter, r *http.Request) {
	repo, ok := s.repoOfReleases(w, r)
	if !ok {
		return
	}
	v, err := s.environmentView(r, repo, r.PathValue("environment"))
	if err != nil {
		s.failed(w, r, err)
		return
	}
	history, err := s.Releases.History(r.Context(), store.ReleaseFilter{Repository: repo.FullName(), Environment: r.PathValue("environment"), Limit: 20})
	if err != nil {
		s.failed(w, r, err)
		return
	}
	active, err := s.activeIn(r.Context(), repo, r.PathValue("environment"))
	if err != nil {
		s.failed(w, r, err)
		return
	}
	out := beginText(w)
	defer out.Flush()
	if len(history) == 0 {
		fmt.Fprintf(out, "Nothing is released to %s yet: penstock deploy --env %[1]s\n", plainText(v.Environment))
		return
	}
	if v.Removed != "" {
		fmt.Fprintf(out, "Nothing serves: %s\n", plainText(v.Removed))
	}
	for _, service := range v.Services {
		var shares []string
		for _, share := range service.Shares {
			shares = append(shares, fmt.Sprintf("v%d %d%%", share.Number, share.Percent))
		}
		fmt.Fprintf(out, "%s\t%s\t%s\n", service.Name, strings.Join(shares, ", "), strings.Join(service.URLs, " "))
	}
	for _, one := range v.Releases {
		if !one.Plain() {
			fmt.Fprintln(out)
			writeRelease(out, one)
		}
	}
	fmt.Fprintln(out, "\nVERSION\tSTATE\tCOMMIT\tBY\tAGE\tWHY")
	for _, one := range history {
		state := string(one.Phase)
		if warm(one.Release, active) {
			state = "warm"
		}
		fmt.Fprintf(out, "v%d\t%s\t%.7s\t%s\t%s\t%s\n", one.Number, state, one.Plan.SHA, plainText(one.Plan.By), age(one.Began.Format(time.RFC3339)), clipped(plainText(s.numbered(one.Plan.Repository, one.Plan.Environment, one.Reason))))
	}
}

// versionText is one release of an environment, as text.
func (s *Server) versionText(w http.ResponseWriter, r *http.Request) {
	repo, ok := s.repoOfReleases(w, r)
	if !ok {
		return
	}
	number, err := strconv.ParseInt(r.PathValue("number"), 10, 64)
	found := store.Release{}
	if err == nil {
		found, err = s.version(r.Context(), repo, r.PathValue("environment"), number)
	}
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, strconv.ErrSyntax) || errors.Is(err, strconv.ErrRange) {
		http.Error(w, "There is no such page.", http.StatusNotFound)
		return
	}
	v := s.releaseView(found)
	if err == nil {
		v.Timeline, err = s.timeline(r.Context(), found)
	}
	if err != nil {
		s.failed(w, r, err)
		return
	}
	out := beginText(w)
	defer out.Flush()
	writeRelease(out, v)
	fmt.Fprintln(out)
	for _, e := range v.Timeline {
		fmt.Fprintf(out, "%s\t%s%s\n", e.At.Format(time.DateTime), plainText(e.Text), e.Often())
	}
}

// writeRelease writes where a release is, its instances, its last checks, and what it waits for.
func writeRelease(out io.Writer, v ReleaseView) {
	fmt.Fprintf(out, "v%d\t%s\t%.7s by %s\t%s\n", v.Number, v.Phase, v.Plan.SHA, plainText(v.Plan.By), v.Page)
	for _, p := range v.Parts {
		for _, i := range p.Instances {
			fmt.Fprintf(out, "  %s/%d\t%s\t%s\t%s\n", p.Service, i.Index, i.State, plainText(v.Plan.Machine(i.Index)), clipped(plainText(i.Reason)))
		}
	}
	for _, c := range v.Checks {
		value := "no value"
		if c.Value != nil {
			value = fmt.Sprintf("%.4g", *c.Value)
		}
		fmt.Fprintf(out, "  %s\t%s\t%s\t%s\n", plainText(c.Name), c.Verdict, value, clipped(plainText(c.Limit+" "+c.Reason)))
	}
	if v.Waits != "" {
		fmt.Fprintf(out, "  %s\n", plainText(v.Waits))
	}
}
