package ingest_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/ingest"
	"github.com/frostpin/frostpin/pins/pinstest"
	"github.com/frostpin/frostpin/spec"
)

type recorder struct{}

func (recorder) Decide(context.Context, pins.Choice, map[string]string) (pins.Decision, error) {
	return pins.Decision{Terms: pins.Uncopied}, nil
}

func (recorder) Refuse(cid.Cid) error { return nil }

func (recorder) AddUploaded(_ context.Context, a pins.Account, r spec.Request, _ pins.Decision, _ pins.Upload) (pins.Pin, error) {
	return pins.Pin{Account: a, Request: r}, nil
}

func (recorder) BeginUpload(context.Context, pins.Account, string) (bool, error) { return true, nil }

func (recorder) EndUpload(context.Context, pins.Account, string) {}

func (recorder) Leftovers() {}

func (recorder) BeginHold(context.Context, []cid.Cid) (string, error) { return "", nil }

func (recorder) EndHold(string) {}

func (recorder) Uploaded(context.Context, pins.Account, string) ([]pins.Pin, int, error) {
	return nil, 0, nil
}

// fuzz uploads what a stranger made up: it is the stranger's fault or becomes a DAG that is held whole.
func fuzz(t *testing.T, format ingest.Format, data []byte) {
	t.Helper()
	tier := pinstest.NewTier()
	lim := pins.Limits{Bytes: 1 << 20, Blocks: 200, Depth: 32, BlockSize: 1 << 20}
	made, _, err := ingest.New(tier, recorder{}, lim).Upload(t.Context(), ingest.Upload{Format: format, Boundary: "b", Body: bytes.NewReader(data)})
	large := (*ingest.LargeError)(nil)
	if err != nil {
		if !errors.Is(err, spec.ErrInvalid) && !errors.As(err, &large) {
			t.Errorf("%v is nobody's fault", err)
		}
		return
	}
	for _, p := range made {
		if err := tier.Hold(t.Context(), p.Root, pins.Limits{Offline: true}, nil); err != nil {
			t.Errorf("the pin of %s is not whole: %v", p.Root, err)
		}
	}
}

func FuzzCAR(f *testing.F) {
	d := pinstest.Tree("seed", 2)
	f.Add(carOf(f, []cid.Cid{d.Root}, d.Blocks...))
	f.Add([]byte("\x0a\xa1gversion\x02" + "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, data []byte) { fuzz(t, ingest.CAR, data) })
}

func FuzzTar(f *testing.F) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range []tar.Header{
		{Name: "a/", Typeflag: tar.TypeDir},
		{Name: "a/b", Typeflag: tar.TypeReg},
		{Name: "a/b/c", Typeflag: tar.TypeReg},
		{Name: "a/l", Typeflag: tar.TypeSymlink, Linkname: "/"},
		{Name: ".", Typeflag: tar.TypeDir},
		{Name: "a/b", Typeflag: tar.TypeReg},
	} {
		if err := w.WriteHeader(&h); err != nil {
			f.Fatal(err)
		}
		f.Add(bytes.Clone(b.Bytes()))
	}
	f.Fuzz(func(t *testing.T, data []byte) { fuzz(t, ingest.Tar, data) })
}

func FuzzForm(f *testing.F) {
	const part = "--b\r\nContent-Disposition: form-data; name=file; filename=\""
	for _, name := range []string{"a", "a%2Fb", "../a", "/", ".", "%00"} {
		f.Add([]byte(part + name + "\"\r\n\r\nhello\r\n" + part + "a\"\r\nContent-Type: application/x-directory\r\n\r\n\r\n--b--\r\n"))
	}
	f.Fuzz(func(t *testing.T, data []byte) { fuzz(t, ingest.Multipart, data) })
}
