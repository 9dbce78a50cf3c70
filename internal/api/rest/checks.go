package rest

import (
	"fmt"
	"strconv"
)

var checkRoutes = []route{
	{pattern: "POST /repos/{owner}/{repo}/check-runs", scopes: needs("checks:write"), handle: (*call).addCheck},
	{pattern: "GET /repos/{owner}/{repo}/check-runs/{id:[0-9]+}", scopes: needs("checks:read"), handle: (*call).getCheck},
	{pattern: "PATCH /repos/{owner}/{repo}/check-runs/{id:[0-9]+}", scopes: needs("checks:write"), handle: (*call).updateCheck},
	{pattern: "GET /repos/{owner}/{repo}/check-runs/{id:[0-9]+}/annotations", scopes: needs("checks:read"), handle: (*call).checkAnnotations},
}

var checkConclusions = []string{
	"action_required", "cancelled", "failure", "neutral", "success", "skipped", "stale", "timed_out", "startup_failure",
}

func (c *call) addCheck() (any, error) {
	name, err := c.required("CheckRun", "name")
	if err != nil {
		return nil, err
	}
	sha, err := c.required("CheckRun", "head_sha")
	if err != nil {
		return nil, err
	}
	if sha, err = c.resolve(sha); err != nil {
		return nil, unprocessable("No commit found for SHA: %s", c.in["head_sha"])
	}
	body := object{
		"name": name, "head_sha": sha, "status": "queued", "conclusion": nil, "started_at": c.now(), "completed_at": nil, "details_url": nil,
		"external_id": "", "output": object{"title": nil, "summary": nil, "text": nil}, "annotations": []any{},
	}
	if err := c.setCheck(body); err != nil {
		return nil, err
	}
	d, err := c.add(kindCheck, sha, "", body)
	if err != nil {
		return nil, err
	}
	c.tellCheck(d)
	return created(c.checkObject(d)), nil
}

// setCheck takes over what the request says of a check.
func (c *call) setCheck(body object) error {
	if err := c.copyTexts(body, "name", "details_url", "external_id", "started_at"); err != nil {
		return err
	}
	if c.in["status"] != nil {
		status, err := c.oneOf("CheckRun", "status", "", "queued", "in_progress", "completed", "waiting", "requested", "pending")
		if err != nil {
			return err
		}
		body["status"] = status
	}
	if c.in["conclusion"] != nil {
		conclusion, err := c.oneOf("CheckRun", "conclusion", "", checkConclusions...)
		if err != nil {
			return err
		}
		body["conclusion"], body["status"], body["completed_at"] = conclusion, "completed", c.now()
	}
	if body["status"] == "completed" && body["conclusion"] == nil {
		return invalid("CheckRun", "conclusion", "missing_field", "")
	}
	if err := c.copyTexts(body, "completed_at"); err != nil {
		return err
	}
	if output, ok := c.in["output"].(object); ok {
		c.setOutput(body, output)
	}
	return nil
}

// maxAnnotations bounds what a check keeps of annotations, over all requests.
const maxAnnotations = 10_000

// setOutput takes over the output; annotations are added to those that are there.
func (c *call) setOutput(body, output object) {
	have, _ := body["output"].(object)
	for _, part := range []string{"title", "summary", "text"} {
		if v, ok := output[part]; ok {
			have[part] = v
		}
	}
	all, _ := body["annotations"].([]any)
	more, _ := output["annotations"].([]any)
	for _, a := range more {
		if a, ok := a.(object); ok && len(all) < maxAnnotations {
			full := object{"start_column": nil, "end_column": nil, "title": nil, "raw_details": nil}
			for _, part := range []string{"path", "start_line", "end_line", "start_column", "end_column", "annotation_level", "message", "title", "raw_details"} {
				if v, ok := a[part]; ok {
					full[part] = v
				}
			}
			all = append(all, full)
		}
	}
	body["annotations"] = all
}

func (c *call) tellCheck(d *document) {
	state := d.text("status")
	if conclusion := d.text("conclusion"); conclusion != "" {
		state = conclusion
	}
	c.tell("check %s of %.12s: %s", d.text("name"), d.Parent, state)
}

func (c *call) getCheck() (any, error) {
	if r, j, n, err := c.jobCheck(); err == nil {
		return c.jobCheckObject(r, j, n), nil
	}
	d, err := c.byID(kindCheck, "id")
	if err != nil {
		return nil, err
	}
	return c.checkObject(d), nil
}

func (c *call) updateCheck() (any, error) {
	d, err := c.change(func() (*document, error) { return c.byID(kindCheck, "id") }, func(d *document) error { return c.setCheck(d.body) })
	if err != nil {
		return nil, err
	}
	c.tellCheck(d)
	return c.checkObject(d), nil
}

func (c *call) checkObject(d *document) object {
	annotations, _ := d.body["annotations"].([]any)
	output := object{"annotations_count": len(annotations), "annotations_url": c.url("/check-runs/%d/annotations", d.ID)}
	have, _ := d.body["output"].(object)
	for k, v := range have {
		output[k] = v
	}
	o := d.with(object{
		"output": output, "url": c.url("/check-runs/%d", d.ID), "html_url": c.web("/runs/%d", d.ID), "check_suite": nil, "app": nil,
		"pull_requests": []object{},
	})
	delete(o, "annotations")
	return o
}

func (c *call) checkAnnotations() (any, error) {
	if _, j, _, err := c.jobCheck(); err == nil {
		return paged(c, jobAnnotations(j)), nil
	}
	d, err := c.byID(kindCheck, "id")
	if err != nil {
		return nil, err
	}
	annotations, _ := d.body["annotations"].([]any)
	out := []object{}
	for _, a := range paged(c, annotations) {
		o, _ := a.(object)
		o["blob_href"] = c.web("/blob/%s/%v", d.Parent, o["path"])
		out = append(out, o)
	}
	return out, nil
}

func (c *call) checksOfCommit(sha string) (any, error) {
	if !c.by.may(needs("checks:read")) {
		return nil, &Error{Status: 403, Message: "Resource not accessible by integration", accepts: needs("checks:read")}
	}
	found, err := c.all(kindCheck, &sha, true)
	if err != nil {
		return nil, err
	}
	checks, err := c.jobChecks(sha)
	if err != nil {
		return nil, err
	}
	for _, d := range found {
		checks = append(checks, c.checkObject(d))
	}
	query := c.r.URL.Query()
	list, seen := []object{}, map[string]bool{}
	for _, o := range checks {
		name := fmt.Sprint(o["name"])
		if (query.Get("check_name") != "" && query.Get("check_name") != name) || (query.Get("status") != "" && query.Get("status") != fmt.Sprint(o["status"])) {
			continue
		}
		key := name
		if suite, ok := o["check_suite"].(object); ok { // jobs of two workflows may have one name
			key += fmt.Sprint("/", suite["id"])
		}
		if query.Get("filter") != "all" && seen[key] {
			continue
		}
		seen[key] = true
		list = append(list, o)
	}
	return object{"total_count": len(list), "check_runs": paged(c, list)}, nil
}

// suitesOfCommit is empty: checks here belong to no app's suite.
func (c *call) suitesOfCommit(string) (any, error) {
	return object{"total_count": 0, "check_suites": []object{}}, nil
}

func text(n int64) string { return strconv.FormatInt(n, 10) }
