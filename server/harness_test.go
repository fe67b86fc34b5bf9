package server_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"go.uber.org/goleak"

	"github.com/frostpin/frostpin/server/v1"
	"github.com/frostpin/frostpin/spec"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// do sends one request, with the token when it is not empty, and headers as pairs.
func (f *fixture) do(token, method, target, body string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	f.ServeHTTP(w, r)
	return w
}

// mustAdd posts a pin and returns its id.
func (f *fixture) mustAdd(t testing.TB, token, body string) string {
	t.Helper()
	w := f.do(token, "POST", "/psa/pins", body)
	var status spec.PinStatus
	if err := json.Unmarshal(w.Body.Bytes(), &status); err != nil || w.Code != http.StatusAccepted {
		t.Fatalf("adding %s: %d %s", body, w.Code, w.Body)
	}
	return status.Requestid
}

// wantFailure asserts an error answer: status, reason, and words in its details.
func wantFailure(t testing.TB, w *httptest.ResponseRecorder, status int, reason, details string) {
	t.Helper()
	if w.Code != status {
		t.Errorf("status %d, want %d: %s", w.Code, status, w.Body)
	}
	f := readFailure(t, w)
	if f.Error.Reason != reason {
		t.Errorf("reason %q, want %q", f.Error.Reason, reason)
	}
	if f.Error.Details == nil || !strings.Contains(*f.Error.Details, details) {
		t.Errorf("details of %s do not contain %q", w.Body, details)
	}
	if got := w.Header().Get("Access-Control-Allow-Origin"); got != "*" {
		t.Errorf("an error without CORS headers: a browser hides it from its user")
	}
}

// readFailure reads the envelope and refuses anything beside it.
func readFailure(t testing.TB, w *httptest.ResponseRecorder) spec.Failure {
	t.Helper()
	if got := w.Header().Get("Content-Type"); got != "application/json" {
		t.Errorf("Content-Type %q", got)
	}
	dec := json.NewDecoder(bytes.NewReader(w.Body.Bytes()))
	dec.DisallowUnknownFields()
	var f spec.Failure
	if err := dec.Decode(&f); err != nil {
		t.Fatalf("%q is no failure: %v", w.Body, err)
	}
	if f.Error.Reason == "" || f.Error.Details != nil && *f.Error.Details == "" {
		t.Errorf("an empty string in %s", w.Body)
	}
	return f
}

// contract checks answers against openapi.yaml.
type contract struct{ doc *openapi3.T }

func loadOwnContract(t testing.TB) contract {
	t.Helper()
	doc, err := v1.GetSpec()
	if err != nil {
		t.Fatal(err)
	}
	return contract{doc}
}

func loadContract(t testing.TB) contract {
	t.Helper()
	doc, err := spec.Contract()
	if err != nil {
		t.Fatal(err)
	}
	return contract{doc}
}

// check validates status and body of an answer to method on a path of the contract, and refuses properties that the
// schema does not name, which kin-openapi lets pass.
func (c contract) check(t testing.TB, method, path string, w *httptest.ResponseRecorder) {
	t.Helper()
	item := c.doc.Paths.Value(path)
	if item == nil || item.GetOperation(method) == nil {
		t.Fatalf("the contract has no %s %s", method, path)
	}
	op := item.GetOperation(method)
	input := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{
			Request: httptest.NewRequest(method, "http://service"+path, nil),
			Route:   &routers.Route{Spec: c.doc, Path: path, PathItem: item, Method: method, Operation: op},
		},
		Status:  w.Code,
		Header:  w.Header(),
		Options: &openapi3filter.Options{IncludeResponseStatus: true, MultiError: true},
	}
	body := w.Body.Bytes()
	input.SetBodyBytes(body)
	if err := openapi3filter.ValidateResponse(t.Context(), input); err != nil {
		t.Errorf("%s %s breaks the contract: %v", method, path, err)
	}

	response := op.Responses.Status(w.Code)
	if response == nil {
		response = op.Responses.Value(fmt.Sprintf("%dXX", w.Code/100))
	}
	if response == nil {
		t.Errorf("%s %s: the contract has no status %d", method, path, w.Code)
		return
	}
	media := response.Value.Content.Get("application/json")
	if media == nil {
		if len(body) > 0 {
			t.Errorf("%s %s: status %d has a body: %s", method, path, w.Code, body)
		}
		return
	}
	var v any
	if err := json.Unmarshal(body, &v); err != nil {
		t.Errorf("%s %s: %v", method, path, err)
		return
	}
	for _, p := range unnamed("", media.Schema.Value, v) {
		t.Errorf("%s %s: the contract does not name %s", method, path, p)
	}
}

// unnamed lists the properties of v, and the nulls, that a schema does not know.
func unnamed(at string, s *openapi3.Schema, v any) []string {
	var out []string
	switch v := v.(type) {
	case nil:
		out = append(out, at+" as null")
	case []any:
		for i, e := range v {
			out = append(out, unnamed(fmt.Sprintf("%s[%d]", at, i), s.Items.Value, e)...)
		}
	case map[string]any:
		for k, e := range v {
			switch p := s.Properties[k]; {
			case p != nil:
				out = append(out, unnamed(at+"."+k, p.Value, e)...)
			case s.AdditionalProperties.Schema == nil:
				out = append(out, at+"."+k)
			}
		}
	}
	slices.Sort(out)
	return out
}

func TestContractCheckerNoticesWhatItMust(t *testing.T) {
	c := loadContract(t)
	good := `{"requestid":"a","status":"queued","created":"2026-01-31T12:00:00.000Z","pin":{"cid":"b"},"delegates":["c"]}`
	for _, bad := range []struct {
		name   string
		status int
		body   string
	}{
		{"wrong status", 201, good},
		{"unknown property", 200, strings.Replace(good, `"pin":{`, `"pin":{"x":1,`, 1)},
		{"null", 200, strings.Replace(good, `"cid":"b"`, `"cid":"b","name":null`, 1)},
		{"missing property", 200, strings.Replace(good, `"status":"queued",`, ``, 1)},
		{"unknown word", 200, strings.Replace(good, `queued`, `offloaded`, 1)},
		{"no delegates", 200, strings.Replace(good, `["c"]`, `[]`, 1)},
	} {
		w := httptest.NewRecorder()
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(bad.status)
		if _, err := io.WriteString(w, bad.body); err != nil {
			t.Fatal(err)
		}
		probe := &recordingTB{TB: t}
		c.check(probe, "GET", "/pins/{requestid}", w)
		if !probe.failed {
			t.Errorf("%s passed", bad.name)
		}
	}
}

// recordingTB remembers failures instead of reporting them.
type recordingTB struct {
	testing.TB
	failed bool
}

func (r *recordingTB) Errorf(string, ...any) { r.failed = true }
