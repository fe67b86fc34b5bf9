package spec

//go:generate go tool oapi-codegen -config models.cfg.yaml ../openapi.yaml
//go:generate go tool oapi-codegen -config contract.cfg.yaml ../openapi.yaml
