package server

//go:generate go tool oapi-codegen -config api.cfg.yaml ../openapi.yaml
