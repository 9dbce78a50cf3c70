package rest

var statusRoutes = []route{
	{pattern: "POST /repos/{owner}/{repo}/statuses/{sha}", scopes: needs("statuses:write"), handle: (*call).addStatus},
}

func (c *call) addStatus() (any, error) {
	sha, err := c.resolve(c.part("sha"))
	if err != nil {
		return nil, unprocessable("No commit found for SHA: %s", c.part("sha"))
	}
	state, err := c.oneOf("Status", "state", "", "error", "failure", "pending", "success")
	if err != nil {
		return nil, err
	}
	body := object{
		"state": state, "context": "default", "description": nil, "target_url": nil, "avatar_url": nil, "creator": c.by.Login,
		"created_at": c.now(), "updated_at": c.now(),
	}
	if err := c.copyTexts(body, "context", "description", "target_url"); err != nil {
		return nil, err
	}
	if description, _ := body["description"].(string); len([]rune(description)) > 140 {
		return nil, invalid("Status", "description", "custom", "description is too long (maximum is 140 characters)")
	}
	d, err := c.add(kindStatus, sha, "", body)
	if err != nil {
		return nil, err
	}
	c.tell("status %s of %.12s: %s", d.text("context"), sha, state)
	return created(c.statusObject(d, true)), nil
}

func (c *call) statusObject(d *document, creator bool) object {
	o := d.with(object{"url": c.url("/statuses/%s", d.Parent)})
	if creator {
		o["creator"] = c.user(d.text("creator"))
	} else {
		delete(o, "creator")
	}
	return o
}

func (c *call) statuses(sha string) (any, error) {
	return c.listed(kindStatus, &sha, true, func(d *document) object { return c.statusObject(d, true) })
}

// combinedStatus is the newest status of each context, and what they come to.
func (c *call) combinedStatus(sha string) (any, error) {
	found, err := c.all(kindStatus, &sha, true)
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	latest, state := []object{}, "success"
	for _, d := range found {
		if seen[d.text("context")] {
			continue
		}
		seen[d.text("context")] = true
		latest = append(latest, c.statusObject(d, false))
		switch s := d.text("state"); {
		case s == "error" || s == "failure":
			state = "failure"
		case s == "pending" && state == "success":
			state = s
		}
	}
	if len(latest) == 0 {
		state = "pending"
	}
	return object{
		"state": state, "statuses": paged(c, latest), "sha": sha, "total_count": len(latest), "repository": c.repositoryObject(false),
		"commit_url": c.url("/commits/%s", sha), "url": c.url("/commits/%s/status", sha),
	}, nil
}
