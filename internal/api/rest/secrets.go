package rest

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/penstock-ci/penstock/internal/auth"
	"github.com/penstock-ci/penstock/internal/store"
)

// Secrets and variables belong to a repository, an environment of it, or an owner, which GitHub calls an organisation.
// Values of secrets come in sealed boxes, are kept sealed, and are never given.

const (
	// maxSecret bounds a secret's or variable's value, bytes, and maxSettings how many there may be in one place.
	maxSecret   = 48 << 10
	maxSettings = 500
)

// settingRoutes are the routes of the three places.
func settingRoutes() (out []route) {
	for _, place := range []struct {
		path          string
		read, secrets []string
		variables     []string
	}{
		{"/repos/{owner}/{repo}/actions", needs("secrets:read"), needs("secrets:write"), needs("variables:write")},
		{"/repos/{owner}/{repo}/environments/{environment}", needs("environments:read"), needs("environments:write"), needs("environments:write")},
		{"/orgs/{org}/actions", needs("organization_secrets:read"), needs("organization_secrets:write"), needs("organization_secrets:write")},
	} {
		readVariables := place.read
		if place.path == "/repos/{owner}/{repo}/actions" {
			readVariables = needs("variables:read")
		}
		out = append(out,
			route{pattern: "GET " + place.path + "/secrets", scopes: place.read, handle: (*call).listSecrets},
			route{pattern: "GET " + place.path + "/secrets/public-key", scopes: place.read, handle: (*call).publicKey},
			route{pattern: "GET " + place.path + "/secrets/{name}", scopes: place.read, handle: (*call).getSecret},
			route{pattern: "PUT " + place.path + "/secrets/{name}", scopes: place.secrets, handle: (*call).putSecret, audit: "actions_secret.update"},
			route{pattern: "DELETE " + place.path + "/secrets/{name}", scopes: place.secrets, handle: (*call).deleteSecret, audit: "actions_secret.remove"},
			route{pattern: "GET " + place.path + "/variables", scopes: readVariables, handle: (*call).listVariables},
			route{pattern: "POST " + place.path + "/variables", scopes: place.variables, handle: (*call).addVariable, audit: "actions_variable.create"},
			route{pattern: "GET " + place.path + "/variables/{name}", scopes: readVariables, handle: (*call).getVariable},
			route{pattern: "PATCH " + place.path + "/variables/{name}", scopes: place.variables, handle: (*call).saveVariable, audit: "actions_variable.update"},
			route{pattern: "DELETE " + place.path + "/variables/{name}", scopes: place.variables, handle: (*call).deleteVariable, audit: "actions_variable.remove"},
		)
	}
	return append(out,
		route{pattern: "GET /repos/{owner}/{repo}/actions/organization-secrets", scopes: needs("secrets:read"), handle: (*call).ownersSecrets},
		route{pattern: "GET /repos/{owner}/{repo}/actions/organization-variables", scopes: needs("variables:read"), handle: (*call).ownersVariables},
	)
}

// scope is the place that the path names. An environment must be there; an owner's settings are for administrators.
func (c *call) scope() (store.Scope, error) {
	if org := c.part("org"); org != "" {
		if !c.by.Admin {
			return store.Scope{}, errNotFound
		}
		return store.Scope{Owner: org}, nil
	}
	if name := c.part("environment"); name != "" {
		e, err := c.Store.Environment(c.ctx, c.repo.ID, name)
		return store.Scope{Repository: c.repo.ID, Environment: e.Name}, err
	}
	return store.Scope{Repository: c.repo.ID}, nil
}

func (c *call) publicKey() (any, error) {
	if _, err := c.scope(); err != nil {
		return nil, err
	}
	id, key := c.Keys().PublicKey()
	return object{"key_id": id, "key": base64.StdEncoding.EncodeToString(key[:])}, nil
}

func (c *call) secretObject(s store.Secret) object {
	o := object{"name": s.Name, "created_at": stamp(s.Created), "updated_at": stamp(s.Updated)}
	c.access(o, s.Scope, s.Access, "secrets", s.Name)
	return o
}

// access adds which repositories see what an owner has.
func (c *call) access(o object, scope store.Scope, a store.Access, kind, name string) {
	if scope.Owner == "" {
		return
	}
	o["visibility"] = a.Visibility
	if a.Visibility == "selected" {
		o["selected_repositories_url"] = c.origin() + c.Prefix + "/orgs/" + scope.Owner + "/actions/" + kind + "/" + name + "/repositories"
	}
}

func (c *call) listSecrets() (any, error) {
	scope, err := c.scope()
	if err != nil {
		return nil, err
	}
	return c.secretsOf(scope, func(store.Secret) bool { return true })
}

// ownersSecrets are those of the repository's owner that it sees.
func (c *call) ownersSecrets() (any, error) {
	owner, _, _ := strings.Cut(c.repo.Name, "/")
	list, err := c.secretsOf(store.Scope{Owner: owner}, func(s store.Secret) bool { return s.Shows(c.repo.ID, c.repo.Private) })
	if err != nil {
		return nil, err
	}
	for _, o := range list["secrets"].([]object) { // who sees them is none of the repository's business
		delete(o, "visibility")
		delete(o, "selected_repositories_url")
	}
	return list, nil
}

func (c *call) secretsOf(scope store.Scope, show func(store.Secret) bool) (object, error) {
	all, err := c.Store.Secrets(c.ctx, scope)
	if err != nil {
		return nil, err
	}
	list := []object{}
	for _, s := range all {
		if show(s) {
			list = append(list, c.secretObject(s))
		}
	}
	return object{"total_count": len(list), "secrets": paged(c, list)}, nil
}

func (c *call) getSecret() (any, error) {
	scope, err := c.scope()
	if err != nil {
		return nil, err
	}
	s, err := c.Store.Secret(c.ctx, scope, c.part("name"))
	if err != nil {
		return nil, err
	}
	return c.secretObject(s), nil
}

func (c *call) putSecret() (any, error) {
	scope, err := c.scope()
	if err != nil {
		return nil, err
	}
	name, err := c.settingName(c.part("name"))
	if err != nil {
		return nil, err
	}
	box, err := c.required("Secret", "encrypted_value")
	if err != nil {
		return nil, err
	}
	key, err := c.required("Secret", "key_id")
	if err != nil {
		return nil, err
	}
	sealed, err := base64.StdEncoding.DecodeString(box)
	if err != nil {
		return nil, unprocessable("Bad request - encrypted_value is not base64")
	}
	value, err := c.Keys().OpenBox(key, sealed)
	switch {
	case errors.Is(err, auth.ErrNoKey):
		return nil, unprocessable("Bad request - key_id is not that of a public key of this server: get it anew")
	case err != nil:
		return nil, unprocessable("Bad request - encrypted_value is not sealed for the public key")
	case len(value) > maxSecret:
		return nil, unprocessable("Secret value is too large: it has %d bytes, at most %d are kept", len(value), maxSecret)
	}
	s := store.Secret{Scope: scope, Name: name, SealedBy: c.Keys().Current(), Updated: c.Now().UTC()}
	if s.Access, err = c.readAccess(scope, "private"); err != nil {
		return nil, err
	}
	if err := c.roomFor(scope, name); err != nil {
		return nil, err
	}
	s.Value = c.Keys().Seal(value, scope.String(), name)
	isNew, err := c.Store.PutSecret(c.ctx, s)
	if err != nil {
		return nil, err
	}
	if isNew {
		return created(object{}), nil
	}
	return noContent, nil
}

// roomFor refuses one setting more than there may be in a place.
func (c *call) roomFor(scope store.Scope, name string) error {
	secrets, err := c.Store.Secrets(c.ctx, scope)
	if err != nil {
		return err
	}
	for _, s := range secrets {
		if s.Name == name {
			return nil
		}
	}
	if len(secrets) >= maxSettings {
		return unprocessable("There may be %d secrets here, not more", maxSettings)
	}
	return nil
}

func (c *call) settingName(name string) (string, error) {
	name, err := store.SettingName(name)
	if err != nil {
		return "", unprocessable("%s", strings.TrimPrefix(err.Error(), "name "))
	}
	return name, nil
}

// readAccess reads which repositories are to see an owner's setting.
func (c *call) readAccess(scope store.Scope, or string) (a store.Access, err error) {
	if scope.Owner == "" {
		return a, nil
	}
	if a.Visibility, err = c.oneOf("Secret", "visibility", or, "all", "private", "selected"); err != nil {
		return a, err
	}
	if a.Visibility == "selected" {
		a.Selected, err = c.selectedIDs()
	}
	return a, err
}

func (c *call) deleteSecret() (any, error) {
	scope, err := c.scope()
	if err != nil {
		return nil, err
	}
	return noContent, c.Store.DeleteSecret(c.ctx, scope, c.part("name"))
}

func (c *call) variableObject(v store.Variable) object {
	o := object{"name": v.Name, "value": v.Value, "created_at": stamp(v.Created), "updated_at": stamp(v.Updated)}
	c.access(o, v.Scope, v.Access, "variables", v.Name)
	return o
}

func (c *call) listVariables() (any, error) {
	scope, err := c.scope()
	if err != nil {
		return nil, err
	}
	return c.variablesOf(scope, func(store.Variable) bool { return true })
}

func (c *call) ownersVariables() (any, error) {
	owner, _, _ := strings.Cut(c.repo.Name, "/")
	list, err := c.variablesOf(store.Scope{Owner: owner}, func(v store.Variable) bool { return v.Shows(c.repo.ID, c.repo.Private) })
	if err != nil {
		return nil, err
	}
	for _, o := range list["variables"].([]object) {
		delete(o, "visibility")
		delete(o, "selected_repositories_url")
	}
	return list, nil
}

func (c *call) variablesOf(scope store.Scope, show func(store.Variable) bool) (object, error) {
	all, err := c.Store.Variables(c.ctx, scope)
	if err != nil {
		return nil, err
	}
	list := []object{}
	for _, v := range all {
		if show(v) {
			list = append(list, c.variableObject(v))
		}
	}
	return object{"total_count": len(list), "variables": paged(c, list)}, nil
}

func (c *call) getVariable() (any, error) {
	scope, err := c.scope()
	if err != nil {
		return nil, err
	}
	v, err := c.Store.Variable(c.ctx, scope, c.part("name"))
	if err != nil {
		return nil, err
	}
	return c.variableObject(v), nil
}

func (c *call) addVariable() (any, error) {
	scope, err := c.scope()
	if err != nil {
		return nil, err
	}
	v := store.Variable{Scope: scope, Updated: c.Now().UTC()}
	if err := c.readVariable(&v); err != nil {
		return nil, err
	}
	if v.Name == "" {
		return nil, invalid("Variable", "name", "missing_field", "")
	}
	all, err := c.Store.Variables(c.ctx, scope)
	if err != nil {
		return nil, err
	}
	if len(all) >= maxSettings {
		return nil, unprocessable("There may be %d variables here, not more", maxSettings)
	}
	err = c.Store.AddVariable(c.ctx, v)
	if errors.Is(err, store.ErrExists) {
		return nil, &Error{Status: http.StatusConflict, Message: fmt.Sprintf("Variable already exists: %s", v.Name)}
	}
	return created(object{}), err
}

// readVariable takes over what the request says of a variable.
func (c *call) readVariable(v *store.Variable) (err error) {
	if c.in["name"] != nil {
		if v.Name, err = c.text("name", ""); err != nil {
			return err
		}
		if v.Name, err = c.settingName(v.Name); err != nil {
			return err
		}
	}
	if v.Value, err = c.text("value", v.Value); err != nil {
		return err
	}
	if len(v.Value) > maxSecret || strings.ContainsRune(v.Value, 0) {
		return unprocessable("Variable value is too large, or has a NUL: at most %d bytes of text are kept", maxSecret)
	}
	if v.Scope.Owner != "" && (v.Visibility == "" || c.in["visibility"] != nil) {
		v.Access, err = c.readAccess(v.Scope, "private")
	}
	return err
}

func (c *call) saveVariable() (any, error) {
	scope, err := c.scope()
	if err != nil {
		return nil, err
	}
	v, err := c.Store.Variable(c.ctx, scope, c.part("name"))
	if err != nil {
		return nil, err
	}
	was := v.Name
	v.Updated = c.Now().UTC()
	if err := c.readVariable(&v); err != nil {
		return nil, err
	}
	err = c.Store.SaveVariable(c.ctx, was, v)
	if errors.Is(err, store.ErrExists) {
		return nil, &Error{Status: http.StatusConflict, Message: fmt.Sprintf("Variable already exists: %s", v.Name)}
	}
	return noContent, err
}

func (c *call) deleteVariable() (any, error) {
	scope, err := c.scope()
	if err != nil {
		return nil, err
	}
	return noContent, c.Store.DeleteVariable(c.ctx, scope, c.part("name"))
}
