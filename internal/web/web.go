// Package web is the pages of the server, built from web/ and carried in the program. It knows files alone: what the pages
// show they ask the API for.
package web

import (
	"embed"
	"io/fs"
	"net/http"
	"path"
	"strings"
)

//go:embed all:dist
var dist embed.FS

// policy lets pages run the scripts that were built with them and no others, and speak to their own server alone. Styles
// may stand in elements: the components set colours and places so. Pictures may come from anywhere with https: people put
// badges into summaries.
const policy = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: https:; font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"

// unbuilt is shown by a program that was built without its pages.
const unbuilt = "This penstock was built without its pages. `make web build` builds it with them; the API is at /api/v3 all the same.\n"

// Handler serves the pages: the files that were built, and for every other path the page that finds out by itself what to
// show.
func Handler() http.Handler {
	files, err := fs.Sub(dist, "dist")
	if err != nil {
		panic(err) // the directory is embedded
	}
	index, _ := fs.ReadFile(files, "index.html")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "same-origin")
		h.Set("X-Frame-Options", "DENY")
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
			return
		}
		name := strings.TrimPrefix(path.Clean(r.URL.Path), "/")
		if strings.HasPrefix(name, "assets/") || name == "icon.svg" {
			if strings.HasPrefix(name, "assets/") { // their names change with what is in them
				h.Set("Cache-Control", "public, max-age=31536000, immutable")
			}
			http.ServeFileFS(w, r, files, name)
			return
		}
		h.Set("Cache-Control", "no-cache")
		if index == nil {
			http.Error(w, unbuilt, http.StatusNotFound)
			return
		}
		h.Set("Content-Type", "text/html; charset=utf-8")
		_, _ = w.Write(index) // the browser has gone
	})
}
