package server

import (
	"io"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"
)

// Routes is the route table.
func (s *Server) Routes() []*echo.Route { return s.echo.Routes() }

// ErrStalled is what a body ends with whose client is silent.
var ErrStalled = errStalled

// PatientBody is the body of an upload.
func PatientBody(w http.ResponseWriter, body io.Reader, idle time.Duration, least int) io.Reader {
	return newPatient(w, body, idle, least)
}

// Uploading tells how many uploads run.
func (s *Server) Uploading() int { return len(s.uploading) }
