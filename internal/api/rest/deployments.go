package rest

var deploymentRoutes = []route{
	{pattern: "GET /repos/{owner}/{repo}/deployments", scopes: needs("deployments:read"), handle: (*call).listDeployments},
	{pattern: "POST /repos/{owner}/{repo}/deployments", scopes: needs("deployments:write"), handle: (*call).addDeployment},
	{pattern: "GET /repos/{owner}/{repo}/deployments/{id:[0-9]+}", scopes: needs("deployments:read"), handle: (*call).getDeployment},
	{pattern: "DELETE /repos/{owner}/{repo}/deployments/{id:[0-9]+}", scopes: needs("deployments:write"), handle: (*call).deleteDeployment},
	{pattern: "GET /repos/{owner}/{repo}/deployments/{id:[0-9]+}/statuses", scopes: needs("deployments:read"), handle: (*call).deploymentStatuses},
	{pattern: "POST /repos/{owner}/{repo}/deployments/{id:[0-9]+}/statuses", scopes: needs("deployments:write"), handle: (*call).addDeploymentStatus},
}

func (c *call) deploymentObject(d *document) object {
	self := c.url("/deployments/%d", d.ID)
	return d.with(object{
		"creator": c.user(d.text("creator")), "url": self, "statuses_url": self + "/statuses", "repository_url": c.url(""), "performed_via_github_app": nil,
	})
}

func (c *call) addDeployment() (any, error) {
	ref, err := c.required("Deployment", "ref")
	if err != nil {
		return nil, err
	}
	sha, err := c.resolve(ref)
	if err != nil {
		return nil, unprocessable("No ref found for: %s", ref)
	}
	environment, err := c.text("environment", "production")
	if err != nil {
		return nil, err
	}
	payload := c.in["payload"]
	if payload == nil {
		payload = object{}
	}
	body := object{
		"ref": ref, "sha": sha, "task": "deploy", "payload": payload, "environment": environment, "original_environment": environment, "description": nil,
		"creator": c.by.Login, "created_at": c.now(), "updated_at": c.now(), "transient_environment": c.yes("transient_environment", false),
		"production_environment": c.yes("production_environment", environment == "production"),
	}
	if err := c.copyTexts(body, "task", "description"); err != nil {
		return nil, err
	}
	d, err := c.add(kindDeployment, environment, "", body)
	if err != nil {
		return nil, err
	}
	c.tell("deployment of %s to %s", ref, environment)
	o := c.deploymentObject(d)
	return created(o), c.happened(Happening{Event: "deployment", Action: "created", Payload: object{"deployment": o}})
}

func (c *call) listDeployments() (any, error) {
	query := c.r.URL.Query()
	found, err := c.all(kindDeployment, nil, true)
	if err != nil {
		return nil, err
	}
	list := []object{}
	for _, d := range found {
		match := true
		for _, member := range []string{"sha", "ref", "task", "environment"} {
			want := query.Get(member)
			match = match && (want == "" || want == d.text(member))
		}
		if match {
			list = append(list, c.deploymentObject(d))
		}
	}
	return paged(c, list), nil
}

func (c *call) getDeployment() (any, error) {
	d, err := c.byID(kindDeployment, "id")
	if err != nil {
		return nil, err
	}
	return c.deploymentObject(d), nil
}

func (c *call) deleteDeployment() (any, error) {
	d, err := c.remove(kindDeployment, "id")
	if err != nil {
		return nil, err
	}
	c.tell("deployment to %s is deleted", d.text("environment"))
	return noContent, nil
}

func (c *call) stateObject(d *document) object {
	deployment := c.url("/deployments/%s", d.Parent)
	return d.with(object{
		"creator": c.user(d.text("creator")), "url": deployment + "/statuses/" + text(d.ID), "deployment_url": deployment, "repository_url": c.url(""),
		"performed_via_github_app": nil,
	})
}

func (c *call) addDeploymentStatus() (any, error) {
	deployment, err := c.byID(kindDeployment, "id")
	if err != nil {
		return nil, err
	}
	state, err := c.oneOf("DeploymentStatus", "state", "", "error", "failure", "inactive", "in_progress", "queued", "pending", "success")
	if err != nil {
		return nil, err
	}
	body := object{
		"state": state, "description": "", "environment": deployment.text("environment"), "environment_url": "", "log_url": "", "target_url": "",
		"creator": c.by.Login, "created_at": c.now(), "updated_at": c.now(),
	}
	if err := c.copyTexts(body, "description", "environment", "environment_url", "log_url", "target_url"); err != nil {
		return nil, err
	}
	d, err := c.add(kindState, text(deployment.ID), "", body)
	if err != nil {
		return nil, err
	}
	c.tell("deployment of %s to %s: %s %s", deployment.text("ref"), d.text("environment"), state, d.text("environment_url"))
	o := c.stateObject(d)
	if state == "success" && c.yes("auto_inactive", true) && !deployment.yes("production_environment") && !deployment.yes("transient_environment") {
		if err := c.supersede(deployment, Deployment{Environment: deployment.text("environment"), Creator: c.by.Login, At: c.Now()}); err != nil {
			return nil, err
		}
	}
	if state == "inactive" { // starts nothing, as on GitHub
		return created(o), nil
	}
	return created(o), c.happened(Happening{Event: "deployment_status", Action: "created", Payload: object{"deployment": c.deploymentObject(deployment), "deployment_status": o}})
}

func (c *call) deploymentStatuses() (any, error) {
	deployment, err := c.byID(kindDeployment, "id")
	if err != nil {
		return nil, err
	}
	parent := text(deployment.ID)
	return c.listed(kindState, &parent, true, c.stateObject)
}
