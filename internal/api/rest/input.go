package rest

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// text gives a string of the request's body, or or.
func (c *call) text(name, or string) (string, error) {
	switch v := c.in[name].(type) {
	case nil:
		return or, nil
	case string:
		return v, nil
	}
	return "", &Error{Status: http.StatusUnprocessableEntity, Message: "Invalid request.\n\nFor '" + name + "', a string is expected."}
}

// required gives a string that must be there.
func (c *call) required(resource, name string) (string, error) {
	s, err := c.text(name, "")
	if err == nil && s == "" {
		err = invalid(resource, name, "missing_field", "")
	}
	return s, err
}

// oneOf gives a string that must be one of some.
func (c *call) oneOf(resource, name, or string, allowed ...string) (string, error) {
	s, err := c.text(name, or)
	if err == nil && !slices.Contains(allowed, s) {
		err = invalid(resource, name, "invalid", name+" is not one of "+strings.Join(allowed, ", "))
	}
	return s, err
}

// yes gives a boolean of the body, or or.
func (c *call) yes(name string, or bool) bool {
	if v, ok := c.in[name].(bool); ok {
		return v
	}
	return or
}

// names gives a list of strings, or of objects with a name, as issues and labels take it.
func names(v any) []string {
	list, _ := v.([]any)
	out := []string{}
	for _, item := range list {
		switch item := item.(type) {
		case string:
			out = append(out, item)
		case object:
			if s, ok := item["name"].(string); ok {
				out = append(out, s)
			}
		}
	}
	return out
}

// texts copies the members of the request's body that are there and are text or null into an object.
func (c *call) copyTexts(into object, members ...string) error {
	for _, name := range members {
		v, ok := c.in[name]
		if !ok {
			continue
		}
		if v != nil {
			var err error
			if v, err = c.text(name, ""); err != nil {
				return err
			}
		}
		into[name] = v
	}
	return nil
}

// page is the part of a list that the request asks for.
func (c *call) page() (offset, limit int) {
	query := c.r.URL.Query()
	limit, err := strconv.Atoi(query.Get("per_page"))
	if err != nil || limit < 1 {
		limit = 30
	}
	limit = min(limit, maxPage)
	page, err := strconv.Atoi(query.Get("page"))
	if err != nil || page < 1 {
		page = 1
	}
	return (min(page, 1_000_000) - 1) * limit, limit
}

// link says where the next and the previous page are; more that there is a next one.
func (c *call) link(more bool) {
	offset, limit := c.page()
	page := offset/limit + 1
	var links []string
	add := func(n int, rel string) {
		query := c.r.URL.Query()
		query.Set("page", strconv.Itoa(n))
		query.Set("per_page", strconv.Itoa(limit))
		u := url.URL{Path: c.r.URL.Path, RawPath: c.r.URL.RawPath, RawQuery: query.Encode()}
		links = append(links, "<"+c.origin()+u.String()+`>; rel="`+rel+`"`)
	}
	if page > 1 {
		add(page-1, "prev")
	}
	if more {
		add(page+1, "next")
	}
	if page > 1 {
		add(1, "first")
	}
	if len(links) > 0 {
		c.w.Header().Set("Link", strings.Join(links, ", "))
	}
}

// paged cuts the page that is asked for out of a whole list.
func paged[T any](c *call, all []T) []T {
	offset, limit := c.page()
	offset = min(offset, len(all))
	end := min(offset+limit, len(all))
	c.link(end < len(all))
	return slices.Clone(all[offset:end]) // never nil where it is shown
}

// stamp writes a time as GitHub does.
func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05Z") }

func (c *call) now() string { return stamp(c.Now()) }

// first is the first line of a text, cut for people.
func first(s string) string {
	s, _, more := strings.Cut(strings.TrimSpace(s), "\n")
	if r := []rune(s); len(r) > 100 {
		s, more = string(r[:100]), true
	}
	if more {
		s += " ..."
	}
	return s
}
