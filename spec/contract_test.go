package spec_test

import (
	"encoding/json"
	"os"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/frostpin/frostpin/spec"
)

// Our contract is the official one in everything but its words. testdata holds the official document with texts
// and examples taken out.
func TestContractIsTheOfficialOneInOurWords(t *testing.T) {
	text, err := os.ReadFile("../openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var ours map[string]any
	if err := yaml.Unmarshal(text, &ours); err != nil {
		t.Fatal(err)
	}
	var official map[string]any
	text, err = os.ReadFile("testdata/pinning-service-v1.0.0.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &official); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(plain(t, official), plain(t, ours)); diff != "" {
		t.Errorf("openapi.yaml differs from the official contract (-official +ours):\n%s", diff)
	}
}

func TestEmbeddedContractIsTheOneAtTheRoot(t *testing.T) {
	text, err := os.ReadFile("../openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	root, err := openapi3.NewLoader().LoadFromData(text)
	if err != nil {
		t.Fatal(err)
	}
	embedded, err := spec.Contract()
	if err != nil {
		t.Fatal(err)
	}
	// Both through the same parser, which leaves out what equals OpenAPI's defaults.
	if diff := cmp.Diff(throughJSON(t, root), throughJSON(t, embedded)); diff != "" {
		t.Errorf("run go generate ./spec (-openapi.yaml +embedded):\n%s", diff)
	}
}

// plain is a document without its words: title, servers, descriptions, summaries.
func plain(t *testing.T, doc map[string]any) any {
	t.Helper()
	v := throughJSON(t, doc).(map[string]any)
	delete(v, "info")
	delete(v, "servers")
	return strip(v, false)
}

func strip(v any, named bool) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for k, e := range v {
			// Below properties and the like, keys are names that somebody chose.
			if !named && (k == "description" || k == "summary") {
				continue
			}
			out[k] = strip(e, !named && (k == "properties" || k == "schemas" || k == "parameters" || k == "responses" || k == "paths"))
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = strip(e, false)
		}
		return out
	}
	return v
}

func throughJSON(t *testing.T, v any) any {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var out any
	if err := json.Unmarshal(data, &out); err != nil {
		t.Fatal(err)
	}
	return out
}
