package v1

//go:generate go tool oapi-codegen -config v1.cfg.yaml ../api-v1.yaml
