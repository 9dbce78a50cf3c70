package native

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/penstock-ci/penstock/internal/blob"
)

// Runs gives the runs that have artifacts, the newest first, by the names of blobs alone: none is opened.
func (a *Artifacts) Runs() ([]string, error) {
	infos, err := a.blobs.List("artifacts/")
	if err != nil {
		return nil, fmt.Errorf("list artifacts: %w", err)
	}
	var runs []string
	for _, info := range infos {
		run, _, _ := strings.Cut(strings.TrimPrefix(info.Key, "artifacts/"), "/")
		if isNumber(run) && strings.HasSuffix(info.Key, ".json") && (len(runs) == 0 || runs[len(runs)-1] != run) {
			runs = append(runs, run)
		}
	}
	slices.SortFunc(runs, func(x, y string) int { return cmp.Or(cmp.Compare(len(y), len(x)), cmp.Compare(y, x)) })
	return slices.Compact(runs), nil
}

// All gives every artifact of a run, the newest first: of earlier attempts, and those that have expired and are not swept.
func (a *Artifacts) All(run string) ([]Artifact, error) {
	if !isNumber(run) {
		return nil, fmt.Errorf("list artifacts: %q is no run's id", run)
	}
	all, err := a.all(run)
	slices.SortFunc(all, func(x, y Artifact) int { return cmp.Compare(y.ID, x.ID) })
	return all, err
}

// Find gives an artifact by its ID, whatever its run. The error wraps fs.ErrNotExist if there is none.
func (a *Artifacts) Find(id int64) (Artifact, error) {
	var art Artifact
	infos, err := a.blobs.List("artifacts/")
	if err != nil {
		return art, fmt.Errorf("find artifact %d: %w", id, err)
	}
	name := strconv.FormatInt(id, 10) + ".json"
	at := slices.IndexFunc(infos, func(i blob.Info) bool { return path.Base(i.Key) == name })
	if at < 0 {
		return art, fmt.Errorf("find artifact %d: %w", id, fs.ErrNotExist)
	}
	text, err := blob.ReadAll(a.blobs, infos[at].Key, maxDescription)
	if err != nil {
		return art, fmt.Errorf("find artifact %d: %w", id, err)
	}
	if err := json.Unmarshal(text, &art); err != nil || art.key(".json") != infos[at].Key {
		return art, errors.New("find artifact: " + infos[at].Key + " is damaged")
	}
	return art, nil
}

// Expired says whether an artifact is not to be had any more.
func (a *Artifacts) Expired(art Artifact) bool { return art.Expires.Before(a.now()) }
