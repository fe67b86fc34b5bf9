package server

import "github.com/labstack/echo/v4"

// Routes is the route table.
func (s *Server) Routes() []*echo.Route { return s.echo.Routes() }
