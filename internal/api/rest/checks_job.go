package rest

import (
	"github.com/penstock-ci/penstock/internal/ci"
	"github.com/penstock-ci/penstock/internal/store"
)

// Jobs are check runs: a job's number is also that of its check, and its run is the check's suite.

// maxChecked bounds the runs of one commit that are shown as checks.
const maxChecked = 100

// jobCheck finds the job that a check of the path is.
func (c *call) jobCheck() (*ci.Run, *ci.Job, int64, error) {
	if c.Runs == nil {
		return nil, nil, 0, errNotFound
	}
	return c.job()
}

// jobChecks are the checks that the runs of a commit are, the newest first.
func (c *call) jobChecks(sha string) ([]object, error) {
	if c.Runs == nil {
		return nil, nil
	}
	runs, err := c.Runs.Engine.Runs(c.ctx, store.Filter{Repository: c.repo.Name, SHA: sha, Limit: maxChecked})
	if err != nil {
		return nil, err
	}
	var out []object
	for _, s := range runs {
		r, err := c.Runs.Engine.Run(c.ctx, s.ID)
		if err != nil {
			return nil, err
		}
		jobs := leaf(r)
		numbers, err := c.numbers(r, jobs)
		if err != nil {
			return nil, err
		}
		for _, j := range jobs {
			out = append(out, c.jobCheckObject(r, j, numbers[j.ID]))
		}
	}
	return out, nil
}

func (c *call) jobCheckObject(r *ci.Run, j *ci.Job, number int64) object {
	o := c.jobObject(r, j, number)
	return object{
		"id": number, "node_id": o["node_id"], "name": j.Name, "head_sha": o["head_sha"], "status": j.Status, "conclusion": o["conclusion"],
		"external_id": string(j.ID), "url": c.url("/check-runs/%d", number), "html_url": o["html_url"], "details_url": o["html_url"],
		"started_at": o["started_at"], "completed_at": o["completed_at"], "check_suite": object{"id": int64(r.ID)}, "app": nil, "pull_requests": []object{},
		"output": object{
			"title": nil, "summary": nil, "text": nil, "annotations_count": len(jobAnnotations(j)), "annotations_url": c.url("/check-runs/%d/annotations", number),
		},
	}
}

// jobAnnotations are what a job's steps said of files and of itself, and why it ended if that is not plain.
func jobAnnotations(j *ci.Job) []object {
	out := []object{}
	for _, a := range j.Annotations {
		level, file := a.Level, a.File
		if level == "error" {
			level = "failure"
		}
		if file == "" {
			file = ".github"
		}
		line := max(a.Line, 1)
		out = append(out, object{
			"path": file, "start_line": line, "end_line": max(a.EndLine, line), "start_column": orNull(a.Column), "end_column": orNull(a.EndColumn),
			"annotation_level": level, "title": a.Title, "message": a.Message, "raw_details": "", "blob_href": "",
		})
	}
	if j.Reason != "" && j.Status == ci.Completed && j.Conclusion != ci.Success && j.Conclusion != ci.Skipped {
		out = append(out, object{
			"path": ".github", "start_line": 1, "end_line": 1, "start_column": nil, "end_column": nil, "annotation_level": "failure",
			"title": "", "message": j.Reason, "raw_details": "", "blob_href": "",
		})
	}
	return out
}
