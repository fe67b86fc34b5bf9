package spec_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/frostpin/frostpin/spec"
)

// The generated types are what the contract says; the encoder by hand must agree with them on every value, also when
// a field is added to the contract.
func TestHandWrittenEncoderAgreesWithTheGeneratedTypes(t *testing.T) {
	text := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"", `"\`, "\n\r\t\b\f\x00\x1f\x7f", "<>&\u2028", "😀"}))
	texts := rapid.SliceOfN(text, 0, 3)
	pairs := rapid.MapOfN(text, text, 0, 3)
	status := rapid.Custom(func(t *rapid.T) spec.PinStatus {
		s := spec.PinStatus{
			Requestid: text.Draw(t, "id"),
			Status:    spec.Status(text.Draw(t, "status")),
			Created:   spec.Time{Time: time.UnixMilli(rapid.Int64Range(0, 1<<42).Draw(t, "created"))},
			Pin:       spec.Pin{Cid: text.Draw(t, "cid"), Name: rapid.Ptr(text, true).Draw(t, "name")},
			Delegates: texts.Draw(t, "delegates"),
		}
		if rapid.Bool().Draw(t, "with origins") {
			s.Pin.Origins = new(texts.Draw(t, "origins"))
		}
		if rapid.Bool().Draw(t, "with meta") {
			s.Pin.Meta = new(spec.PinMeta(pairs.Draw(t, "meta")))
		}
		if rapid.Bool().Draw(t, "with info") {
			s.Info = new(spec.StatusInfo(pairs.Draw(t, "info")))
		}
		return s
	})
	rapid.Check(t, func(t *rapid.T) {
		r := spec.NewPinResults(rapid.Int64().Draw(t, "count"), rapid.SliceOfN(status, 0, 4).Draw(t, "rows"))
		want, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		got := spec.AppendPinResults(nil, r)
		if !json.Valid(got) {
			t.Fatalf("not JSON: %s", got)
		}
		var a, b any
		if err := json.Unmarshal(want, &a); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(got, &b); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(a, b); diff != "" {
			t.Fatalf("(-encoding/json +ours):\n%s", diff)
		}
	})
}

func TestEncoderNeverWritesBrokenUTF8(t *testing.T) {
	s := spec.NewPinStatus("a\xffb", spec.Queued, time.UnixMilli(0), spec.Request{CID: v0}, nil, nil)
	if got := spec.AppendPinStatus(nil, &s); !json.Valid(got) || !cmp.Equal(string(got), string([]rune(string(got)))) {
		t.Errorf("%q", got)
	}
}
