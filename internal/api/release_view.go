package api

import (
	"fmt"
	"time"

	"github.com/penstock-ci/penstock/internal/cd"
)

// EnvironmentView is what serves in an environment and what is under way there, as pages and the command line are told.
type EnvironmentView struct {
	Repository  string        `json:"repository"`
	Environment string        `json:"environment"`
	Services    []ServiceView `json:"services"`
	// Releases are those of which something runs or is under way, the newest first.
	Releases []ReleaseView `json:"releases"`
	// TakenBack is the newest release of all, if it failed or was aborted and nothing of it runs any more.
	TakenBack *ReleaseView `json:"taken_back,omitempty"`
	// Removed says who removed all that was released, and why, if nothing was since.
	Removed string `json:"removed,omitempty"`
	// Version is another one when anything else of this is.
	Version    int64 `json:"version"`
	MayRelease bool  `json:"may_release"` // the visitor
}

// ServiceView is a service of an environment.
type ServiceView struct {
	Name string   `json:"name"`
	URLs []string `json:"urls"` // where it is found
	// Reach are the URLs by which the job that asks reaches it, if they are others.
	Reach []string `json:"reach,omitempty"`
	// Serving is the release that takes the traffic, or most of it; 0 if none does.
	Serving cd.ReleaseID `json:"serving,omitempty"`
	// Shares are how the traffic is divided now, by release, percent.
	Shares []ShareView `json:"shares"`
}

// ShareView is a release's part of the traffic of a service.
type ShareView struct {
	Release cd.ReleaseID `json:"release"`
	Number  int64        `json:"number"`
	Percent int          `json:"percent"`
}

// ReleaseView is a release with what the plan and the state do not say by themselves.
type ReleaseView struct {
	*cd.Release
	Number   int64           `json:"number"`             // within its environment, from 1: v12
	Page     string          `json:"page"`               // URL
	Outcome  string          `json:"outcome"`            // released, failed, aborted, superseded; empty while it is not known
	Waits    string          `json:"waits,omitempty"`    // why it does not go on by itself now, until when, and who can move it on
	Warm     bool            `json:"warm,omitempty"`     // live, and takes no traffic: it is kept beside a later one; told of the history
	Same     int64           `json:"same,omitempty"`     // number of the one before, if all of this one's revisions are its; told when it begins
	Restores int64           `json:"restores,omitempty"` // number of the release whose revision it brings back
	Timeline []TimelineEntry `json:"timeline,omitempty"` // of a release that is asked for alone
}

// Plain says that there is nothing to say of a release but that it serves: it is done, on the server's own machine, and all is well.
func (v ReleaseView) Plain() bool {
	if v.Phase != cd.Live || len(v.Plan.Machines) > 0 {
		return false
	}
	for _, p := range v.Parts {
		for _, i := range p.Instances {
			if i.Index < p.Want && i.State != cd.Healthy {
				return false
			}
		}
	}
	return true
}

// TimelineEntry is one thing that happened to a release, or that happened Count times, from At to Until.
type TimelineEntry struct {
	At      time.Time `json:"at"`
	Type    string    `json:"type"`
	Text    string    `json:"text"`
	Warning bool      `json:"warning,omitempty"`
	By      string    `json:"by,omitempty"`
	Count   int       `json:"count,omitempty"`
	Until   time.Time `json:"until,omitzero"`
}

// Often says how often it happened, if more than once, as the end of its line.
func (e TimelineEntry) Often() string {
	if e.Count < 2 {
		return ""
	}
	return fmt.Sprintf(" (%d times)", e.Count)
}

// ReleaseRequest asks for a release.
type ReleaseRequest struct {
	Environment string            `json:"environment"`
	Services    []string          `json:"services,omitempty"`  // none is all of the environment
	Ref         string            `json:"ref,omitempty"`       // branch, tag or commit whose penstock.yaml and files count; empty is the default branch
	Images      map[string]string `json:"images,omitempty"`    // by service, "" for the only one
	Artifacts   map[string]string `json:"artifacts,omitempty"` // digests of files that were handed in, by service, "" for the only one
	Reason      string            `json:"reason,omitempty"`

	sha string // the commit, where it is known; else Ref is looked up
}

// ReleaseAction is what is asked of a release: the action is in the path.
type ReleaseAction struct {
	Weight int    `json:"weight,omitempty"`
	Reason string `json:"reason,omitempty"`
	Force  bool   `json:"force,omitempty"`
}

// RollbackRequest asks for an older release again.
type RollbackRequest struct {
	To     int64  `json:"to,omitempty"` // number of the release; 0 is the one that served before
	Reason string `json:"reason,omitempty"`
}

// RemoveRequest asks for all that is released to an environment to stop.
type RemoveRequest struct {
	Reason string `json:"reason,omitempty"`
}
