package spec_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/frostpin/frostpin/spec"
)

func TestAnswersNeverContainNull(t *testing.T) {
	created := time.Date(2026, 1, 31, 13, 0, 0, 120_000_000, time.FixedZone("", 3600))
	bare := spec.NewPinStatus("id", spec.Queued, created, spec.Request{CID: v0}, []string{addrA}, nil)
	empty := spec.NewPinStatus("id", spec.Queued, created, spec.Request{CID: v0, Origins: []string{}, Meta: map[string]string{}},
		[]string{addrA}, map[string]string{})
	full := spec.NewPinStatus("id", spec.Pinned, created, spec.Request{
		CID: v0, Name: new(""), Origins: []string{addrA}, Meta: map[string]string{"a": "b"},
	}, []string{addrA}, map[string]string{"dag_size": "1"})

	const row = `{"created":"2026-01-31T12:00:00.120Z","delegates":["` + addrA + `"],`
	for _, c := range []struct {
		name string
		v    any
		want string
	}{
		{"no rows", spec.NewPinResults(3, nil), `{"count":3,"results":[]}`},
		{"absent fields", bare, row + `"pin":{"cid":"` + v0 + `"},"requestid":"id","status":"queued"}`},
		{"empty fields", empty, row + `"pin":{"cid":"` + v0 + `"},"requestid":"id","status":"queued"}`},
		{"all fields", full, row + `"info":{"dag_size":"1"},"pin":{"cid":"` + v0 + `","meta":{"a":"b"},"name":"","origins":["` + addrA +
			`"]},"requestid":"id","status":"pinned"}`},
		{"error", spec.NewFailure("NOT_FOUND", "gone"), `{"error":{"details":"gone","reason":"NOT_FOUND"}}`},
		{"error without details", spec.NewFailure("NOT_FOUND", ""), `{"error":{"reason":"NOT_FOUND"}}`},
	} {
		got, err := json.Marshal(c.v)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.want)
		}
	}
}

func TestCreatedAlwaysHasThreeDigits(t *testing.T) {
	for ms, want := range map[int64]string{
		0:             `"1970-01-01T00:00:00.000Z"`,
		1769860800100: `"2026-01-31T12:00:00.100Z"`,
		1769860800001: `"2026-01-31T12:00:00.001Z"`,
	} {
		got, err := json.Marshal(spec.Time{Time: time.UnixMilli(ms)})
		if err != nil || string(got) != want {
			t.Errorf("got %s, %v; want %s", got, err, want)
		}
		var back spec.Time
		if err := json.Unmarshal(got, &back); err != nil || back.UnixMilli() != ms {
			t.Errorf("%s reads back as %v, %v", got, back, err)
		}
	}
}

func TestCountStaysWithinTheContract(t *testing.T) {
	if got := spec.NewPinResults(1<<40, nil).Count; got != 1<<31-1 {
		t.Errorf("got %d", got)
	}
}
