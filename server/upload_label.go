package server

import (
	"io"
	"mime/multipart"
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/frostpin/frostpin/pins/ingest"
	"github.com/frostpin/frostpin/spec"
)

// labelled reads name and meta from the first part of a multipart/mixed body and leaves what is uploaded, the second one,
// in u: there they may be as long as for every pin, while a query must fit into the header of a request. It returns the
// type of the second part.
func labelled(c echo.Context, u *ingest.Upload, boundary string) (kind string, err error) {
	if boundary == "" {
		return "", &spec.InvalidError{Field: "Content-Type", Problem: "does not name the boundary of the parts"}
	}
	if u.Name != nil || u.Meta != nil {
		return "", &spec.InvalidError{Field: "query", Problem: "must not have name or meta where the first part of the body is for them"}
	}
	body := c.Request().Body
	from := &relay{io.LimitReader(body, maxBody)} // and for as long as any body of the API may take
	parts := multipart.NewReader(from, boundary)
	broken := &spec.InvalidError{Field: "body", Problem: "is not a JSON document and what is uploaded, in two parts"}
	first, err := parts.NextRawPart()
	if err != nil {
		return "", broken
	}
	label, err := io.ReadAll(first)
	if err != nil {
		return "", broken
	}
	if u.Name, u.Meta, err = spec.DecodeLabel(label); err != nil {
		return "", err
	}
	second, err := parts.NextRawPart()
	if err != nil {
		return "", broken
	}
	from.Reader = newPatient(c.Response().Writer, body, stallTime, leastUpload)
	u.Body = second
	return http.Header(second.Header).Get("Content-Type"), nil
}

// A relay is a reader that can be replaced.
type relay struct{ io.Reader }
