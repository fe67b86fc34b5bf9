package spec

import (
	"fmt"

	"github.com/getkin/kin-openapi/openapi3"
)

// Contract returns the embedded openapi.yaml, parsed, with all references resolved. Every call parses it anew, so the
// caller may change what it gets.
func Contract() (*openapi3.T, error) {
	doc, err := GetSpec()
	if err != nil {
		return nil, fmt.Errorf("parsing the embedded contract: %w", err)
	}
	return doc, nil
}
