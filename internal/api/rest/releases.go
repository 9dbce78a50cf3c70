package rest

import (
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/penstock-ci/penstock/internal/store"
)

var releaseRoutes = []route{
	{pattern: "GET /repos/{owner}/{repo}/releases", scopes: needs("contents:read"), handle: (*call).listReleases},
	{pattern: "POST /repos/{owner}/{repo}/releases", scopes: needs("contents:write"), handle: (*call).addRelease},
	{pattern: "GET /repos/{owner}/{repo}/releases/latest", scopes: needs("contents:read"), handle: (*call).latestRelease},
	{pattern: "GET /repos/{owner}/{repo}/releases/tags/*", scopes: needs("contents:read"), handle: (*call).releaseByTag},
	{pattern: "POST /repos/{owner}/{repo}/releases/generate-notes", scopes: needs("contents:write"), handle: (*call).generateNotes},
	{pattern: "GET /repos/{owner}/{repo}/releases/{id:[0-9]+}", scopes: needs("contents:read"), handle: (*call).getRelease},
	{pattern: "PATCH /repos/{owner}/{repo}/releases/{id:[0-9]+}", scopes: needs("contents:write"), handle: (*call).updateRelease},
	{pattern: "DELETE /repos/{owner}/{repo}/releases/{id:[0-9]+}", scopes: needs("contents:write"), handle: (*call).deleteRelease},
	{pattern: "GET /repos/{owner}/{repo}/releases/{id:[0-9]+}/assets", scopes: needs("contents:read"), handle: (*call).listAssets},
	{pattern: "POST /repos/{owner}/{repo}/releases/{id:[0-9]+}/assets", scopes: needs("contents:write"), handle: (*call).uploadAsset, upload: true},
	{pattern: "GET /repos/{owner}/{repo}/releases/assets/{id:[0-9]+}", scopes: needs("contents:read"), handle: (*call).getAsset},
	{pattern: "DELETE /repos/{owner}/{repo}/releases/assets/{id:[0-9]+}", scopes: needs("contents:write"), handle: (*call).deleteAsset},
}

func (c *call) releaseObject(d *document) object {
	self := c.url("/releases/%d", d.ID)
	tag := d.text("tag_name")
	id := text(d.ID)
	assets := []object{}
	if found, err := c.all(kindAsset, &id, false); err == nil {
		assets = shown(found, c.assetObject)
	}
	return d.with(object{
		"author": c.user(d.text("author")), "url": self, "assets_url": self + "/assets", "assets": assets, "html_url": c.web("/releases/tag/%s", tag),
		"upload_url":  c.origin() + c.Uploads + "/repos/" + c.repo.Name + fmt.Sprintf("/releases/%d/assets{?name,label}", d.ID),
		"tarball_url": c.url("/tarball/%s", tag), "zipball_url": c.url("/zipball/%s", tag),
	})
}

func (c *call) addRelease() (any, error) {
	tag, err := c.required("Release", "tag_name")
	if err != nil {
		return nil, err
	}
	if !c.writable("refs/tags/" + tag) {
		return nil, invalid("Release", "tag_name", "custom", "tag_name is not well-formed")
	}
	body := object{
		"tag_name": tag, "target_commitish": c.repo.DefaultBranch, "name": tag, "body": nil, "draft": c.yes("draft", false), "prerelease": c.yes("prerelease", false),
		"author": c.by.Login, "created_at": c.now(), "published_at": nil, "immutable": false,
	}
	if err := c.copyTexts(body, "target_commitish", "name", "body"); err != nil {
		return nil, err
	}
	if c.yes("generate_release_notes", false) {
		notes, err := c.notes(tag, body["target_commitish"].(string), "")
		if err != nil {
			return nil, err
		}
		written, _ := body["body"].(string)
		body["body"] = strings.TrimSpace(written + "\n\n" + notes)
	}
	name := "" // drafts may share a tag
	if body["draft"] == false {
		name = tag
		if err := c.publish(body); err != nil {
			return nil, err
		}
	}
	d, err := c.add(kindRelease, "", name, body)
	if errors.Is(err, store.ErrExists) {
		return nil, invalid("Release", "tag_name", "already_exists", "")
	}
	if err != nil {
		return nil, err
	}
	c.tell("%s %s: %s", releaseKind(d), tag, first(d.text("name")))
	return created(c.releaseObject(d)), c.releaseHappened(d, append([]string{"created"}, published(d)...)...)
}

func releaseKind(d *document) string {
	switch {
	case d.yes("draft"):
		return "draft release"
	case d.yes("prerelease"):
		return "pre-release"
	}
	return "release"
}

// publish gives a release its time and its tag, which is made where it is not there.
func (c *call) publish(body object) error {
	body["published_at"] = c.now()
	tag := "refs/tags/" + body["tag_name"].(string)
	if _, err := c.resolve(tag); err == nil {
		return nil
	}
	target, _ := body["target_commitish"].(string)
	sha, err := c.resolve(target)
	if err != nil && target == c.repo.DefaultBranch {
		sha, err = c.head("")
	}
	if err != nil {
		return invalid("Release", "target_commitish", "invalid", "")
	}
	return c.setRef(tag, noCommit, sha)
}

func (c *call) listReleases() (any, error) { return c.listed(kindRelease, nil, true, c.releaseObject) }

func (c *call) getRelease() (any, error) {
	d, err := c.byID(kindRelease, "id")
	if err != nil {
		return nil, err
	}
	return c.releaseObject(d), nil
}

func (c *call) releaseByTag() (any, error) {
	d, err := c.named(kindRelease, "", c.part("*"))
	if err != nil {
		return nil, err
	}
	return c.releaseObject(d), nil
}

func (c *call) latestRelease() (any, error) {
	found, err := c.all(kindRelease, nil, true)
	if err != nil {
		return nil, err
	}
	for _, d := range found {
		if !d.yes("draft") && !d.yes("prerelease") {
			return c.releaseObject(d), nil
		}
	}
	return nil, errNotFound
}

func (c *call) updateRelease() (any, error) {
	var wasDraft, wasPrerelease bool
	d, err := c.change(func() (*document, error) { return c.byID(kindRelease, "id") }, func(d *document) error {
		wasDraft, wasPrerelease = d.yes("draft"), d.yes("prerelease")
		if err := c.copyTexts(d.body, "tag_name", "target_commitish", "name", "body"); err != nil {
			return err
		}
		if !c.writable("refs/tags/" + d.text("tag_name")) {
			return invalid("Release", "tag_name", "custom", "tag_name is not well-formed")
		}
		d.body["draft"], d.body["prerelease"] = c.yes("draft", wasDraft), c.yes("prerelease", wasPrerelease)
		if d.yes("draft") {
			d.Name = ""
			return nil
		}
		d.Name = d.text("tag_name")
		if wasDraft {
			return c.publish(d.body)
		}
		return nil
	})
	if errors.Is(err, store.ErrExists) {
		return nil, invalid("Release", "tag_name", "already_exists", "")
	}
	if err != nil {
		return nil, err
	}
	c.tell("%s %s is changed (%s)", releaseKind(d), d.text("tag_name"), strings.Join(sortedKeys(c.in), ", "))
	actions := []string{"edited"}
	switch {
	case wasDraft:
		actions = published(d)
	case wasPrerelease && !d.yes("prerelease"):
		actions = append(actions, "released")
	}
	return c.releaseObject(d), c.releaseHappened(d, actions...)
}

func (c *call) deleteRelease() (any, error) {
	d, err := c.remove(kindRelease, "id")
	if err != nil {
		return nil, err
	}
	c.tell("%s %s is deleted", releaseKind(d), d.text("tag_name"))
	return noContent, c.releaseHappened(d, "deleted")
}

func (c *call) generateNotes() (any, error) {
	tag, err := c.required("Release", "tag_name")
	if err != nil {
		return nil, err
	}
	target, err := c.text("target_commitish", c.repo.DefaultBranch)
	if err != nil {
		return nil, err
	}
	previous, err := c.text("previous_tag_name", "")
	if err != nil {
		return nil, err
	}
	notes, err := c.notes(tag, target, previous)
	if err != nil {
		return nil, err
	}
	return object{"name": tag, "body": notes}, nil
}

// notes lists what is new in a release since the tag before it.
func (c *call) notes(tag, target, previous string) (string, error) {
	sha, err := c.resolve("refs/tags/" + tag)
	if err != nil {
		if sha, err = c.resolve(target); err != nil {
			sha, err = c.head("")
		}
	}
	if err != nil {
		return "", invalid("Release", "target_commitish", "invalid", "")
	}
	if previous == "" {
		out, err := c.git("describe", "--tags", "--abbrev=0", "--exclude", tag, sha)
		if err == nil {
			previous = strings.TrimSpace(string(out))
		}
	}
	span, full := sha, c.web("/commits/%s", tag)
	if previous != "" {
		from, err := c.resolve("refs/tags/" + previous)
		if err != nil {
			return "", invalid("Release", "previous_tag_name", "invalid", "")
		}
		span, full = from+".."+sha, c.web("/compare/%s...%s", previous, tag)
	}
	list, err := c.commits(fmt.Sprint("--max-count=", maxCompared), "--first-parent", span)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	b.WriteString("## What's Changed\n")
	for _, g := range list {
		fmt.Fprintf(&b, "* %s by %s in %s\n", first(g.message), g.author.name, c.web("/commit/%s", g.sha))
	}
	fmt.Fprintf(&b, "\n**Full Changelog**: %s", full)
	return b.String(), nil
}

// maxAsset bounds a release's file, bytes, as on GitHub.
const maxAsset = 2 << 30

// assetName is what the name of an asset may have; GitHub puts a dot for the rest.
var assetName = regexp.MustCompile(`[^A-Za-z0-9._+@-]+`)

func assetKey(id string) string { return path.Join("releases", id) }

func (c *call) uploadAsset() (any, error) {
	release, err := c.byID(kindRelease, "id")
	if err != nil {
		return nil, err
	}
	name := strings.Trim(assetName.ReplaceAllString(c.r.URL.Query().Get("name"), "."), ".")
	if name == "" || len(name) > 200 {
		return nil, invalid("ReleaseAsset", "name", "missing_field", "")
	}
	kind := c.r.Header.Get("Content-Type")
	if _, _, err := mime.ParseMediaType(kind); err != nil {
		kind = "application/octet-stream"
	}
	parent := text(release.ID)
	if _, err := c.named(kindAsset, parent, name); err == nil {
		return nil, invalid("ReleaseAsset", "name", "already_exists", "")
	}
	key := assetKey(c.repo.Name + "/" + parent + "/" + name)
	size, err := c.Blobs.Put(c.ctx, key, http.MaxBytesReader(c.w, c.r.Body, maxAsset))
	if err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			return nil, &Error{Status: http.StatusRequestEntityTooLarge, Message: fmt.Sprintf("The file is larger than %d bytes", maxAsset)}
		}
		return nil, err
	}
	var label any
	if query := c.r.URL.Query(); query.Has("label") {
		label = query.Get("label")
	}
	d, err := c.add(kindAsset, parent, name, object{
		"name": name, "label": label, "state": "uploaded", "content_type": kind, "size": size, "download_count": 0, "uploader": c.by.Login,
		"created_at": c.now(), "updated_at": c.now(), "digest": nil,
	})
	if errors.Is(err, store.ErrExists) {
		return nil, invalid("ReleaseAsset", "name", "already_exists", "")
	}
	if err != nil {
		return nil, err
	}
	c.tell("asset %s of release %s, %d bytes", name, release.text("tag_name"), size)
	return created(c.assetObject(d)), nil
}

func (c *call) assetObject(d *document) object {
	return d.with(object{
		"uploader": c.user(d.text("uploader")), "url": c.url("/releases/assets/%d", d.ID),
		"browser_download_url": c.web("/releases/download/%s/%s", d.Parent, url.PathEscape(d.Name)),
	})
}

func (c *call) listAssets() (any, error) {
	release, err := c.byID(kindRelease, "id")
	if err != nil {
		return nil, err
	}
	parent := text(release.ID)
	return c.listed(kindAsset, &parent, false, c.assetObject)
}

func (c *call) getAsset() (any, error) {
	d, err := c.byID(kindAsset, "id")
	if err != nil {
		return nil, err
	}
	if !slices.Contains(strings.Split(c.r.Header.Get("Accept"), ","), "application/octet-stream") {
		return c.assetObject(d), nil
	}
	f, err := c.Blobs.Open(assetKey(c.repo.Name + "/" + d.Parent + "/" + d.Name))
	if errors.Is(err, os.ErrNotExist) {
		return nil, errNotFound
	}
	if err != nil {
		return nil, err
	}
	c.w.Header().Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": d.Name}))
	return &file{contentType: d.text("content_type"), content: f}, nil
}

func (c *call) deleteAsset() (any, error) {
	d, err := c.remove(kindAsset, "id")
	if err != nil {
		return nil, err
	}
	if err := c.Blobs.Delete(assetKey(c.repo.Name + "/" + d.Parent + "/" + d.Name)); err != nil {
		return nil, err
	}
	c.tell("asset %s is deleted", d.Name)
	return noContent, nil
}
