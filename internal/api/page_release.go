package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/penstock-ci/penstock/internal/auth"
	"github.com/penstock-ci/penstock/internal/cd"
	"github.com/penstock-ci/penstock/internal/engine"
	"github.com/penstock-ci/penstock/internal/store"
)

// maxTimeline bounds the events of one release that are shown, the latest.
const maxTimeline = 1000

// releaser is somebody who may release in a repository.
type releaser struct {
	asker
	repo store.Repository
}

// repoOfReleases is repoOfPage, also for a job that may see deployments and not the code.
func (s *Server) repoOfReleases(w http.ResponseWriter, r *http.Request) (store.Repository, bool) {
	from := visitorOf(r).session
	if from == nil || !auth.ParsePermissions(from.permissions, true).Allows("deployments", "read") {
		return s.repoOfPage(w, r)
	}
	repo, err := s.Store.RepositoryNamed(r.Context(), r.PathValue("owner"), r.PathValue("repo"))
	if errors.Is(err, store.ErrNotFound) || err == nil && !strings.EqualFold(from.repository, repo.FullName()) {
		refuse(w, http.StatusNotFound, "Not Found")
		return repo, false
	}
	if err != nil {
		s.failed(w, r, err)
	}
	return repo, err == nil
}

// releaseRights finds out who asks, and refuses who may not release.
func (s *Server) releaseRights(w http.ResponseWriter, r *http.Request) (releaser, bool) {
	repo, ok := s.repoOfReleases(w, r)
	if !ok {
		return releaser{}, false
	}
	return s.rightsIn(w, r, repo, nil)
}

// rightsIn is releaseRights in a repository. Whoever is to open a gate may do so, whatever else they may.
func (s *Server) rightsIn(w http.ResponseWriter, r *http.Request, repo store.Repository, gate *cd.Gate) (releaser, bool) {
	v := visitorOf(r)
	allowed, err := s.mayRelease(r.Context(), v, repo)
	if err != nil {
		s.failed(w, r, err)
		return releaser{}, false
	}
	opens := gate != nil && v.user != nil && v.scopes.Allows("repo") && slices.ContainsFunc(gate.Who, func(who string) bool { return strings.EqualFold(who, v.user.Login) })
	if !allowed && !opens {
		why := "You may not release here: it takes the role write"
		if v.session != nil {
			why = "This job may not release: give it permissions: deployments: write"
		}
		refuse(w, http.StatusForbidden, why)
		return releaser{}, false
	}
	by := releaser{repo: repo}
	if v.user != nil {
		by.login = v.user.Login
		return by, true
	}
	if by.asker, err = s.jobAsker(r.Context(), v.session); err != nil {
		s.failed(w, r, err)
		return releaser{}, false
	}
	return by, true
}

// jobAsker is a job that asks for a release: whoever began its run asks, and its environment's gate has been passed.
func (s *Server) jobAsker(ctx context.Context, from *session) (asker, error) {
	run, err := s.Engine.Run(ctx, from.lease.Run)
	if err != nil {
		return asker{}, err
	}
	by := asker{login: run.Plan.GitHub.Property("actor").Text(), run: int64(run.ID)}
	j := run.Job(from.lease.Job)
	if j == nil || j.Environment == "" {
		return by, nil
	}
	by.passed = j.Environment
	owner, name, _ := strings.Cut(run.Plan.Repository, "/")
	repo, err := s.Store.RepositoryNamed(ctx, owner, name)
	if err != nil {
		return by, err
	}
	r, err := s.restRepository(repo)
	if err != nil {
		return by, err
	}
	by.deployment, err = s.rest.DeploymentOf(ctx, r, j.Environment, deploymentKey(run, j))
	return by, err
}

// beginRelease is POST .../releases.
func (s *Server) beginRelease(w http.ResponseWriter, r *http.Request) {
	by, ok := s.releaseRights(w, r)
	var ask ReleaseRequest
	if !ok || !readBody(w, r, &ask) {
		return
	}
	id, err := s.release(r.Context(), by.repo, by.asker, ask)
	s.answerRelease(w, r, by.repo, ask.Environment, http.StatusCreated, id, err)
}

// sameAs gives the number of the release that serves before another one, if it has the same revisions of all its services; else 0,
// also if that is not known: it is a remark on what has begun.
func (s *Server) sameAs(ctx context.Context, r store.Release) (number int64) {
	for _, service := range r.Plan.Services {
		if service.Before == 0 {
			return 0
		}
		before, err := s.Releases.Release(ctx, service.Before)
		if err != nil || !slices.ContainsFunc(before.Plan.Services, func(b cd.Service) bool { return b.Name == service.Name && b.Revision.ID == service.Revision.ID }) {
			return 0
		}
		number = max(number, before.Number)
	}
	return number
}

// answerRelease answers with a release of an environment, or with why there is none.
func (s *Server) answerRelease(w http.ResponseWriter, r *http.Request, repo store.Repository, environment string, status int, id cd.ReleaseID, err error) {
	var found store.Release
	if err == nil {
		found, err = s.Releases.Release(r.Context(), id)
	}
	switch {
	case errors.Is(err, errRelease), errors.Is(err, engine.ErrNothingToRestore), errors.Is(err, engine.ErrNothingToRemove), errors.Is(err, engine.ErrNoMachine):
		refuse(w, http.StatusUnprocessableEntity, s.numbered(repo.FullName(), environment, err.Error()))
	case errors.Is(err, cd.ErrRefused), errors.Is(err, cd.ErrStale):
		refuse(w, http.StatusConflict, s.numbered(repo.FullName(), environment, err.Error()))
	case errors.Is(err, store.ErrNotFound):
		refuse(w, http.StatusNotFound, "Not Found")
	case err != nil:
		s.failed(w, r, err)
	default:
		v := s.releaseView(found)
		if status == http.StatusCreated {
			v.Same = s.sameAs(r.Context(), found)
		}
		writeJSON(w, status, v)
	}
}

func (s *Server) releaseView(r store.Release) ReleaseView {
	shown := *r.Release
	shown.Reason = s.numbered(r.Plan.Repository, r.Plan.Environment, shown.Reason)
	v := ReleaseView{
		Release: &shown, Number: r.Number, Waits: s.numbered(r.Plan.Repository, r.Plan.Environment, r.Waits()),
		Page: fmt.Sprintf("%s/%s/environments/%s/%d", s.URL, r.Plan.Repository, url.PathEscape(r.Plan.Environment), r.Number),
	}
	if r.Plan.Restores != 0 {
		if older, err := s.Releases.Release(context.Background(), r.Plan.Restores); err == nil {
			v.Restores = older.Number
		}
	}
	if v.Outcome = outcome(r.Release); v.Outcome == "released" && !s.Releases.InForce(r) {
		v.Outcome = "" // not before its traffic goes there
	}
	return v
}

// releaseNamed matches a release in a sentence, by its ID.
var releaseNamed = regexp.MustCompile(`\b[Rr]elease (\d+)\b`)

// numbered calls releases of an environment in a sentence as people know them: by their numbers there.
func (s *Server) numbered(repository, environment, text string) string {
	return releaseNamed.ReplaceAllStringFunc(text, func(found string) string {
		_, digits, _ := strings.Cut(found, " ")
		id, err := strconv.ParseInt(digits, 10, 64)
		if err != nil {
			return found
		}
		r, err := s.Releases.Release(context.Background(), cd.ReleaseID(id))
		if err != nil || !strings.EqualFold(r.Plan.Environment, environment) || !strings.EqualFold(r.Plan.Repository, repository) {
			return found
		}
		return fmt.Sprintf("v%d", r.Number)
	})
}

// outcome is how a release ended: released as soon as it takes all traffic; empty while that is not known.
func outcome(r *cd.Release) string {
	switch r.Phase {
	case cd.Watching, cd.Live, cd.Retired:
		return "released"
	case cd.Failed, cd.Aborted, cd.Superseded:
		return string(r.Phase)
	}
	return ""
}

// releaseOfPage is the release that a request names, of its repository.
func (s *Server) releaseOfPage(w http.ResponseWriter, r *http.Request, repo store.Repository) (store.Release, bool) {
	id, err := strconv.ParseInt(r.PathValue("release"), 10, 64)
	var found store.Release
	if err == nil {
		found, err = s.Releases.Release(r.Context(), cd.ReleaseID(id))
	}
	if err == nil && strings.EqualFold(found.Plan.Repository, repo.FullName()) {
		return found, true
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) && !errors.Is(err, strconv.ErrSyntax) && !errors.Is(err, strconv.ErrRange) {
		s.failed(w, r, err)
		return found, false
	}
	refuse(w, http.StatusNotFound, "Not Found")
	return found, false
}

// showRelease is GET .../releases/{release}: with its timeline.
func (s *Server) showRelease(w http.ResponseWriter, r *http.Request) {
	repo, ok := s.repoOfReleases(w, r)
	if !ok {
		return
	}
	found, ok := s.releaseOfPage(w, r, repo)
	if !ok {
		return
	}
	v := s.releaseView(found)
	var err error
	if v.Timeline, err = s.timeline(r.Context(), found); err != nil {
		s.failed(w, r, err)
		return
	}
	writeJSON(w, http.StatusOK, v)
}

// timeline is what happened to a release, the latest.
func (s *Server) timeline(ctx context.Context, r store.Release) ([]TimelineEntry, error) {
	var all timeline
	for after := int64(0); ; {
		records, err := s.Releases.Timeline(ctx, r.ID, after, maxTimeline)
		if err != nil {
			return nil, err
		}
		for _, rec := range records {
			after = rec.Seq
			all.add(rec.Event)
		}
		if len(records) < maxTimeline {
			break
		}
	}
	shown := all.entries[max(len(all.entries)-maxTimeline, 0):]
	for i := range shown {
		shown[i].Text = s.numbered(r.Plan.Repository, r.Plan.Environment, shown[i].Text)
	}
	return shown, nil
}

// showVersion is GET .../environments/{environment}/versions/{number}.
func (s *Server) showVersion(w http.ResponseWriter, r *http.Request) {
	repo, ok := s.repoOfReleases(w, r)
	if !ok {
		return
	}
	number, err := strconv.ParseInt(r.PathValue("number"), 10, 64)
	if err != nil {
		refuse(w, http.StatusNotFound, "Not Found")
		return
	}
	found, err := s.version(r.Context(), repo, r.PathValue("environment"), number)
	if errors.Is(err, store.ErrNotFound) {
		refuse(w, http.StatusNotFound, "Not Found")
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
	writeJSON(w, http.StatusOK, v)
}

// version finds a release of an environment by its number. The error wraps store.ErrNotFound if there is none.
func (s *Server) version(ctx context.Context, repo store.Repository, environment string, number int64) (store.Release, error) {
	found, err := s.Releases.History(ctx, store.ReleaseFilter{Repository: repo.FullName(), Environment: environment, Number: number, Limit: 1})
	if err == nil && len(found) == 0 {
		err = store.ErrNotFound
	}
	if err != nil {
		return store.Release{}, err
	}
	return found[0], nil
}

// steerRelease is POST .../releases/{release}/{action}.
func (s *Server) steerRelease(w http.ResponseWriter, r *http.Request) {
	repo, ok := s.repoOfReleases(w, r)
	if !ok {
		return
	}
	found, ok := s.releaseOfPage(w, r, repo)
	if !ok {
		return
	}
	action, gate := r.PathValue("action"), found.Gate
	if action != "approve" && action != "reject" && action != "promote" {
		gate = nil
	}
	by, ok := s.rightsIn(w, r, repo, gate)
	var ask ReleaseAction
	if !ok || !readBody(w, r, &ask) {
		return
	}
	if v := visitorOf(r); v.session != nil && found.Gate != nil && len(found.Gate.Who) > 0 {
		refuse(w, http.StatusForbidden, "A job opens no gate that somebody is to open")
		return
	}
	var in cd.Input
	switch action {
	case "approve":
		in = cd.Approve{By: by.login, Comment: ask.Reason}
	case "reject":
		in = cd.Approve{By: by.login, Comment: ask.Reason, Reject: true}
	case "promote":
		if in = (cd.Promote{By: by.login, Force: ask.Force}); found.Gate != nil && !found.Paused {
			in = cd.Approve{By: by.login, Comment: ask.Reason}
		}
	case "abort":
		in = cd.Abort{By: by.login, Reason: ask.Reason}
	case "rollback":
		in = cd.Rollback{By: by.login, Reason: ask.Reason}
	case "pause":
		in = cd.Pause{By: by.login}
	case "resume":
		in = cd.Resume{By: by.login}
	case "weight":
		in = cd.SetWeight{By: by.login, Weight: ask.Weight}
	default:
		refuse(w, http.StatusNotFound, "Not Found")
		return
	}
	err := s.Releases.Update(r.Context(), found.ID, in)
	if err == nil {
		err = s.audit(r.Context(), by.login, "release."+action, releaseTarget(found), map[string]any{"release": found.ID, "reason": ask.Reason, "weight": ask.Weight})
	}
	s.answerRelease(w, r, repo, found.Plan.Environment, http.StatusOK, found.ID, err)
}

func releaseTarget(r store.Release) string {
	return fmt.Sprintf("%s/environments/%s/v%d", r.Plan.Repository, r.Plan.Environment, r.Number)
}

// rollBack is POST .../environments/{environment}/rollback: at once, while the release before is warm, else by a release that
// restores it.
func (s *Server) rollBack(w http.ResponseWriter, r *http.Request) {
	by, ok := s.releaseRights(w, r)
	var ask RollbackRequest
	if !ok || !readBody(w, r, &ask) {
		return
	}
	ctx, environment := r.Context(), r.PathValue("environment")
	active, err := s.activeIn(ctx, by.repo, environment)
	if err != nil {
		s.failed(w, r, err)
		return
	}
	id, err := s.goBack(ctx, by, environment, active, ask)
	if err == nil {
		err = s.audit(ctx, by.login, "release.rollback", by.repo.FullName()+"/environments/"+environment, map[string]any{"release": id, "to": ask.To, "reason": ask.Reason})
	}
	s.answerRelease(w, r, by.repo, environment, http.StatusOK, id, err)
}

// removeReleased is POST .../environments/{environment}/remove: all that is released there stops, and what is under way is aborted. It
// answers with the newest of it.
func (s *Server) removeReleased(w http.ResponseWriter, r *http.Request) {
	by, ok := s.releaseRights(w, r)
	var ask RemoveRequest
	if !ok || !readBody(w, r, &ask) {
		return
	}
	ctx, environment := r.Context(), r.PathValue("environment")
	id, err := s.Releases.Remove(ctx, store.Place{Repository: by.repo.FullName(), Environment: environment}, by.login, ask.Reason)
	if err == nil {
		err = s.audit(ctx, by.login, "release.remove", by.repo.FullName()+"/environments/"+environment, map[string]any{"release": id, "reason": ask.Reason})
	}
	s.answerRelease(w, r, by.repo, environment, http.StatusOK, id, err)
}

// goBack goes back: what is under way is aborted, what still has the one before beside it is reversed, else the one before
// is released again.
func (s *Server) goBack(ctx context.Context, by releaser, environment string, active []store.Release, ask RollbackRequest) (cd.ReleaseID, error) {
	if ask.To == 0 && len(active) > 0 {
		newest := active[0]
		err := cd.ErrRefused
		switch {
		case outcome(newest.Release) == "" && newest.Phase != cd.Reverting:
			err = s.Releases.Update(ctx, newest.ID, cd.Abort{By: by.login, Reason: ask.Reason})
		case newest.Phase == cd.Watching:
			err = s.Releases.Update(ctx, newest.ID, cd.Rollback{By: by.login, Reason: ask.Reason})
		}
		if !errors.Is(err, cd.ErrRefused) && !errors.Is(err, cd.ErrStale) {
			return newest.ID, err
		}
	}
	want := engine.Restore{Repository: by.repo.FullName(), Environment: environment, By: by.login, Reason: ask.Reason}
	if ask.To != 0 {
		found, err := s.version(ctx, by.repo, environment, ask.To)
		if errors.Is(err, store.ErrNotFound) {
			return 0, notReleased("%s has no v%d: penstock history lists what there is", environment, ask.To)
		}
		if err != nil {
			return 0, err
		}
		want.To = found.ID
	}
	from, err := s.Releases.Restorable(ctx, want)
	if err == nil {
		err = s.undisputed(ctx, from.Plan, from.Extra)
	}
	if err != nil {
		return 0, err
	}
	want.To = from.ID // and no other, which is looked for anew
	return s.Releases.Restore(ctx, want)
}

// activeIn are the releases of an environment of which something runs or is to be done, the newest first.
func (s *Server) activeIn(ctx context.Context, repo store.Repository, environment string) ([]store.Release, error) {
	return s.Releases.History(ctx, store.ReleaseFilter{Repository: repo.FullName(), Environment: environment, Active: true, Limit: 100})
}

// showEnvironment is GET .../environments/{environment}.
func (s *Server) showEnvironment(w http.ResponseWriter, r *http.Request) {
	repo, ok := s.repoOfReleases(w, r)
	if !ok {
		return
	}
	v, err := s.environmentView(r, repo, r.PathValue("environment"))
	if err != nil {
		s.failed(w, r, err)
		return
	}
	writeJSON(w, http.StatusOK, v)
}

// followEnvironment is GET .../environments/{environment}/events: the environment as it is, and again, whole, whenever it has
// changed, as server-sent events. Who comes again has missed nothing: it is told at once how things are.
func (s *Server) followEnvironment(w http.ResponseWriter, r *http.Request) {
	repo, ok := s.repoOfReleases(w, r)
	if !ok {
		return
	}
	news := s.Releases.Changed()
	v, err := s.environmentView(r, repo, r.PathValue("environment"))
	if err != nil {
		s.failed(w, r, err)
		return
	}
	stream := beginStream(w)
	defer stream.end()
	for told := v.Version - 1; ; {
		if v.Version != told {
			data, err := json.Marshal(v)
			if err != nil || stream.send(fmt.Sprintf("retry: 1000\ndata: %s\n\n", data)) != nil {
				return
			}
			told = v.Version
		}
		if !stream.wait(r.Context(), news) {
			return
		}
		news = s.Releases.Changed()
		if v, err = s.environmentView(r, repo, r.PathValue("environment")); err != nil {
			return // the browser comes again, and is told
		}
	}
}

func (s *Server) environmentView(r *http.Request, repo store.Repository, environment string) (EnvironmentView, error) {
	ctx, proxy := r.Context(), s.proxyFor(r)
	view := EnvironmentView{Repository: repo.FullName(), Environment: environment, Services: []ServiceView{}, Releases: []ReleaseView{}}
	active, err := s.activeIn(ctx, repo, environment)
	if err != nil {
		return view, err
	}
	may, err := s.mayRelease(ctx, visitorOf(r), repo)
	if err != nil {
		return view, err
	}
	view.MayRelease = may
	numbers := map[cd.ReleaseID]int64{}
	for _, r := range active {
		numbers[r.ID] = r.Number
		view.Environment = r.Plan.Environment
		v := s.releaseView(r)
		view.Releases = append(view.Releases, v)
		view.Version += int64(r.ID)<<20 + 2*r.Version // each of them only grows, and releases come anew
		if v.Outcome != "" {
			view.Version++
		}
	}
	last, err := s.Releases.History(ctx, store.ReleaseFilter{Repository: repo.FullName(), Environment: environment, Limit: 1})
	if err != nil {
		return view, err
	}
	if len(last) > 0 && last[0].Removed {
		view.Removed = s.numbered(repo.FullName(), environment, last[0].Reason)
	}
	if len(last) > 0 && (last[0].Phase == cd.Failed || last[0].Phase == cd.Aborted) && numbers[last[0].ID] == 0 {
		v := s.releaseView(last[0])
		view.TakenBack = &v
	}
	for _, r := range active {
		for _, share := range r.Shares() {
			if slices.ContainsFunc(view.Services, func(known ServiceView) bool { return known.Name == share.Service }) {
				continue // a newer release divides its traffic
			}
			view.Services = append(view.Services, s.serviceView(proxy, r, share, numbers))
		}
	}
	return view, nil
}

func (s *Server) serviceView(proxy string, r store.Release, share cd.Share, numbers map[cd.ReleaseID]int64) ServiceView {
	v := ServiceView{Name: share.Service, URLs: urlsOf(s.ProxyURL, r, share.Service), Shares: []ShareView{}, Serving: share.New}
	if proxy != s.ProxyURL {
		v.Reach = urlsOf(proxy, r, share.Service)
	}
	if share.Old != 0 {
		v.Shares = append(v.Shares, ShareView{Release: share.Old, Number: numbers[share.Old], Percent: 100 - share.Weight})
		if share.Weight < 50 {
			v.Serving = share.Old
		}
	}
	v.Shares = append(v.Shares, ShareView{Release: share.New, Number: numbers[share.New], Percent: share.Weight})
	return v
}

// releaseHistory is GET .../environments/{environment}/history, the newest first; ?before=ID is the next page.
func (s *Server) releaseHistory(w http.ResponseWriter, r *http.Request) {
	repo, ok := s.repoOfReleases(w, r)
	if !ok {
		return
	}
	query := r.URL.Query()
	limit, _ := strconv.Atoi(query.Get("per_page"))
	if limit <= 0 || limit > 100 {
		limit = 30
	}
	before, _ := strconv.ParseInt(query.Get("before"), 10, 64)
	found, err := s.Releases.History(r.Context(), store.ReleaseFilter{Repository: repo.FullName(), Environment: r.PathValue("environment"), Before: cd.ReleaseID(before), Limit: limit})
	if err != nil {
		s.failed(w, r, err)
		return
	}
	active, err := s.activeIn(r.Context(), repo, r.PathValue("environment"))
	if err != nil {
		s.failed(w, r, err)
		return
	}
	all := []ReleaseView{}
	for _, f := range found {
		v := s.releaseView(f)
		v.Warm = warm(f.Release, active)
		all = append(all, v)
	}
	writeJSON(w, http.StatusOK, all)
}

// warm reports whether a release that is live takes no traffic: later ones take all of it. active are those of its environment, the
// newest first.
func warm(r *cd.Release, active []store.Release) bool {
	if r.Phase != cd.Live {
		return false
	}
	for _, p := range r.Parts {
		for _, a := range active {
			shares := a.Shares()
			i := slices.IndexFunc(shares, func(s cd.Share) bool { return s.Service == p.Service })
			if i < 0 {
				continue
			}
			if s := shares[i]; s.New == r.ID || s.Old == r.ID && s.Weight < 100 {
				return false
			}
			break // the newest divides the traffic
		}
	}
	return true
}
