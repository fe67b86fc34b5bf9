package server

import (
	"bytes"
	"compress/gzip"
	"embed"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strings"
	"sync"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/labstack/echo/v4"
	"github.com/swaggest/swgui/v5/static"

	"github.com/frostpin/frostpin/server/v1"
	"github.com/frostpin/frostpin/spec"
)

//go:embed docs/index.html docs/init.js
var docsFiles embed.FS

// docsPolicy lets the page load what comes from here and nothing else. Swagger UI sets inline styles; its scripts need
// no exception.
const docsPolicy = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; " +
	"font-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// A page is the documentation page with everything it loads.
type page struct {
	html  string
	files map[string]docsFile
}

type docsFile struct {
	kind string // content type
	data []byte
	gzip bool // data is compressed
}

// docs builds the documentation page of the embedded contracts.
func (s *Server) docs() (*page, error) {
	contract, err := s.contract()
	if err != nil {
		return nil, err
	}
	own, err := ownContract()
	if err != nil {
		return nil, err
	}
	p := &page{files: map[string]docsFile{
		"openapi.json": {kind: "application/json", data: contract},
		"api-v1.json":  {kind: "application/json", data: own},
	}}
	for _, f := range []struct {
		from fs.FS
		name string
	}{
		{docsFiles, "docs/index.html"},
		{docsFiles, "docs/init.js"},
		{static.FS, "favicon-32x32.png"},
		{static.FS, "swagger-ui.css.gz"},
		{static.FS, "swagger-ui-bundle.js.gz"},
	} {
		data, err := fs.ReadFile(f.from, f.name)
		if err != nil {
			return nil, fmt.Errorf("reading the documentation page: %w", err)
		}
		name, zipped := strings.CutSuffix(path.Base(f.name), ".gz")
		p.files[name] = docsFile{kind: mime.TypeByExtension(path.Ext(name)), data: data, gzip: zipped}
	}
	p.html = string(p.files["index.html"].data)
	delete(p.files, "index.html")
	return p, nil
}

// contract is the embedded contract with this server as its server, relative to where the contract is served, so that
// it is right behind any proxy.
func (s *Server) contract() ([]byte, error) {
	doc, err := spec.Contract()
	if err != nil {
		return nil, err
	}
	return encodeContract(doc, s.base)
}

// ownContract is the same for our own API, which stands at one place always. Encoding it takes longer than all else that
// a server does to begin.
var ownContract = sync.OnceValues(func() ([]byte, error) {
	doc, err := v1.GetSpec()
	if err != nil {
		return nil, fmt.Errorf("parsing the embedded contract of our own api: %w", err)
	}
	return encodeContract(doc, apiV1)
})

func encodeContract(doc *openapi3.T, base string) ([]byte, error) {
	doc.Servers = openapi3.Servers{{URL: ".." + base, Description: "This server."}}
	data, err := json.Marshal(doc)
	if err != nil {
		return nil, fmt.Errorf("encoding the contract: %w", err)
	}
	return data, nil
}

// index serves the page. What it loads is named relative to it, and it may have been asked for with a slash at the
// end, which only the unchanged request line still shows.
func (p *page) index(c echo.Context) error {
	asked, _, _ := strings.Cut(c.Request().RequestURI, "?")
	prefix := "docs/"
	if strings.HasSuffix(asked, "/") {
		prefix = ""
	}
	h := c.Response().Header()
	h.Set("Content-Security-Policy", docsPolicy)
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Frame-Options", "DENY")
	return c.HTML(http.StatusOK, strings.ReplaceAll(p.html, "PREFIX", prefix))
}

// file serves what the page loads.
func (p *page) file(c echo.Context) error {
	f, ok := p.files[c.Param("file")]
	if !ok {
		return echo.ErrNotFound
	}
	h := c.Response().Header()
	h.Set("Cache-Control", "max-age=3600")
	if !f.gzip {
		return c.Blob(http.StatusOK, f.kind, f.data)
	}
	h.Set("Vary", "Accept-Encoding")
	if strings.Contains(c.Request().Header.Get("Accept-Encoding"), "gzip") {
		h.Set("Content-Encoding", "gzip")
		return c.Blob(http.StatusOK, f.kind, f.data)
	}
	unzipped, err := gzip.NewReader(bytes.NewReader(f.data))
	if err != nil {
		return fmt.Errorf("unpacking %s: %w", c.Param("file"), err)
	}
	data, err := io.ReadAll(unzipped)
	if err != nil {
		return fmt.Errorf("unpacking %s: %w", c.Param("file"), err)
	}
	return c.Blob(http.StatusOK, f.kind, data)
}
