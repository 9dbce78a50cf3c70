// Package web is the pages of the server, built from web/ and carried in the program. It knows files alone: what the pages
// show they ask the API for.
package web

import (
	"compress/gzip"
	"embed"
	"io"
	"io/fs"
	"net/http"
	"path"
	"strconv"
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
		if strings.HasPrefix(name, "assets/") {
			serveAsset(w, r, files, name)
			return
		}
		if name == "icon.svg" {
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

// serveAsset serves a file that is carried as it is sent: by brotli, or by gzip. Its name changes with what is in it.
func serveAsset(w http.ResponseWriter, r *http.Request, files fs.FS, name string) {
	encoding, ending := "gzip", ".gz"
	if accepts(r, "br") {
		encoding, ending = "br", ".br"
	}
	file, err := files.Open(name + ending)
	if err != nil {
		http.NotFound(w, r)
		return
	}
	defer file.Close()
	var text io.Reader = file
	h := w.Header()
	h.Set("Vary", "Accept-Encoding")
	switch {
	case encoding == "br" || accepts(r, "gzip"):
		h.Set("Content-Encoding", encoding)
		if info, err := file.Stat(); err == nil {
			h.Set("Content-Length", strconv.FormatInt(info.Size(), 10))
		}
	default:
		if text, err = gzip.NewReader(file); err != nil {
			http.NotFound(w, r)
			return
		}
	}
	h.Set("Content-Type", types[path.Ext(name)])
	h.Set("Cache-Control", "public, max-age=31536000, immutable")
	if r.Method == http.MethodGet {
		_, _ = io.Copy(w, text) // the browser has gone
	}
}

// types are those of assets, whatever the machine takes them for.
var types = map[string]string{".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml", ".woff2": "font/woff2"}

// accepts says whether a client takes an encoding. https://www.rfc-editor.org/rfc/rfc9110#section-12.5.3
func accepts(r *http.Request, encoding string) bool {
	for _, one := range strings.Split(r.Header.Get("Accept-Encoding"), ",") {
		name, weight, _ := strings.Cut(strings.ToLower(one), ";")
		if strings.TrimSpace(name) != encoding {
			continue
		}
		_, text, weighed := strings.Cut(weight, "=")
		q, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
		return !weighed || err == nil && q > 0
	}
	return false
}
