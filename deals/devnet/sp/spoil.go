package sp

import (
	"bytes"
	"encoding/binary"
	"net/http"
	"strings"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
)

// spoil applies the faults of retrieval: it has answered already, or returns what the answer is to be written to.
func (p *Provider) spoil(w http.ResponseWriter, r *http.Request) (http.ResponseWriter, bool) {
	if _, ok := p.faults.hit(RetrieveMissing); ok {
		answer(w, http.StatusNotFound, "piece not found")
		return w, true
	}
	if _, ok := p.faults.hit(RetrieveBusy); ok {
		w.Header().Set("Retry-After", "1")
		answer(w, http.StatusTooManyRequests, "too many requests")
		return w, true
	}
	if f, ok := p.faults.hit(RetrieveError); ok {
		answer(w, int(orDefault(f.Number, http.StatusInternalServerError)), "internal error")
		return w, true
	}
	if f, ok := p.faults.hit(RetrieveRedirect); ok {
		http.Redirect(w, r, orDefault(f.Text, "http://10.0.0.1/"), http.StatusFound)
		return w, true
	}
	if f, ok := p.faults.hit(RetrieveStall); ok {
		if f.Bytes == 0 {
			<-r.Context().Done()
			return w, true
		}
		return &stallWriter{ResponseWriter: w, left: f.Bytes, gone: r.Context().Done()}, false
	}
	if _, ok := p.faults.hit(RetrieveBytes); ok {
		return &flipWriter{ResponseWriter: w}, false
	}
	if f, ok := p.faults.hit(RetrieveTruncate); ok {
		return &cutWriter{ResponseWriter: w, left: orDefault(f.Bytes, 1000)}, false
	}
	if format(r) == typeCAR && strings.HasPrefix(r.URL.Path, "/ipfs/") {
		if _, ok := p.faults.hit(RetrieveEndless); ok {
			p.serveEndless(w, r)
			return w, true
		}
	}
	return w, false
}

// A stallWriter serves so many bytes and then nothing, until the client goes.
type stallWriter struct {
	http.ResponseWriter
	left int64
	gone <-chan struct{}
}

func (s *stallWriter) Write(b []byte) (int, error) {
	if int64(len(b)) <= s.left {
		s.left -= int64(len(b))
		return s.ResponseWriter.Write(b)
	}
	if _, err := s.ResponseWriter.Write(b[:s.left]); err != nil {
		return 0, err
	}
	s.left = 0
	if err := http.NewResponseController(s.ResponseWriter).Flush(); err != nil {
		return 0, err
	}
	<-s.gone
	panic(http.ErrAbortHandler)
}

// A flipWriter flips a bit of the last byte of the first write; in a CAR of the second, because the first is its header.
type flipWriter struct {
	http.ResponseWriter
	writes int
}

func (f *flipWriter) Write(b []byte) (int, error) {
	f.writes++
	spoiled := 1
	if strings.HasPrefix(f.Header().Get("Content-Type"), typeCAR) {
		spoiled = 2
	}
	if f.writes != spoiled || len(b) == 0 {
		return f.ResponseWriter.Write(b)
	}
	wrong := bytes.Clone(b)
	wrong[len(wrong)-1] ^= 1
	return f.ResponseWriter.Write(wrong)
}

// A cutWriter drops the connection after so many bytes.
type cutWriter struct {
	http.ResponseWriter
	left int64
}

func (c *cutWriter) Write(b []byte) (int, error) {
	if int64(len(b)) <= c.left {
		c.left -= int64(len(b))
		return c.ResponseWriter.Write(b)
	}
	if _, err := c.ResponseWriter.Write(b[:c.left]); err == nil {
		// What is still buffered must be seen before the end.
		_ = http.NewResponseController(c.ResponseWriter).Flush()
	}
	panic(http.ErrAbortHandler)
}

// serveEndless begins like the CAR that was asked for and never ends: well-formed blocks that belong to nothing.
func (p *Provider) serveEndless(w http.ResponseWriter, r *http.Request) {
	root, err := cid.Decode(strings.TrimPrefix(r.URL.Path, "/ipfs/"))
	if err != nil {
		answer(w, http.StatusBadRequest, "not a CID")
		return
	}
	w.Header().Set("Content-Type", typeCAR+"; version=1; order=dfs; dups=n")
	car := &carStream{w: w, seen: make(map[cid.Cid]bool), all: true, block: p.pieces.block}
	if err := car.header(root); err != nil {
		return
	}
	if data, err := p.pieces.block(root); err == nil {
		if err := car.walk(root, data); err != nil {
			return
		}
	}
	for n := uint64(0); r.Context().Err() == nil; n++ {
		data := binary.BigEndian.AppendUint64(make([]byte, 64<<10), n)
		mh, err := multihash.Sum(data, multihash.SHA2_256, -1)
		if err != nil {
			return
		}
		if err := car.section(cid.NewCidV1(cid.Raw, mh).Bytes(), data); err != nil {
			return
		}
	}
}
