package sp

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
)

// spoil applies the faults of retrieval: it has answered already, or returns what the answer is to be written to.
func (p *Provider) spoil(w http.ResponseWriter, r *http.Request) (http.ResponseWriter, bool) {
	if f, ok := p.faults.hit(RetrieveDelay); ok {
		if err := wait(r.Context(), orDefault(time.Duration(f.Delay), 80*time.Millisecond)); err != nil {
			return w, true
		}
	}
	if p.refuse(w, r) {
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
	if f, ok := p.faults.hit(RetrieveDrip); ok {
		return &dripWriter{
			ResponseWriter: w, ctx: r.Context(), bytes: orDefault(f.Bytes, 1), pause: orDefault(time.Duration(f.Delay), time.Second),
		}, false
	}
	if strings.HasPrefix(r.URL.Path, "/piece/") {
		if _, ok := p.faults.hit(RetrievePiece); ok {
			return &blockWriter{ResponseWriter: w, each: func(_ int64, b []byte) ([]byte, bool) { return others(b), true }}, false
		}
		return w, false
	}
	return p.spoilBlocks(w, r)
}

// refuse applies the faults by which a client gets nothing of what it has asked for.
func (p *Provider) refuse(w http.ResponseWriter, r *http.Request) bool {
	if _, ok := p.faults.hit(RetrieveMissing); ok {
		answer(w, http.StatusNotFound, "piece not found")
		return true
	}
	if _, ok := p.faults.hit(RetrieveBusy); ok {
		w.Header().Set("Retry-After", "1")
		answer(w, http.StatusTooManyRequests, "too many requests")
		return true
	}
	if f, ok := p.faults.hit(RetrieveError); ok {
		answer(w, int(orDefault(f.Number, http.StatusInternalServerError)), "internal error")
		return true
	}
	if f, ok := p.faults.hit(RetrieveRedirect); ok {
		http.Redirect(w, r, orDefault(f.Text, "http://10.0.0.1/"), http.StatusFound)
		return true
	}
	if f, ok := p.faults.hit(RetrieveHTML); ok {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = io.WriteString(w, orDefault(f.Text, "<!doctype html><title>Welcome to nginx!</title>\n"))
		return true
	}
	if r.Method == http.MethodGet {
		if _, ok := p.faults.hit(RetrieveStale); ok {
			answer(w, http.StatusNotFound, "piece not found")
			return true
		}
	}
	if strings.HasPrefix(r.URL.Path, "/ipfs/") {
		if _, ok := p.faults.hit(RetrieveNoIPFS); ok {
			answer(w, http.StatusNotFound, "block not found")
			return true
		}
	}
	return false
}

// spoilBlocks applies the faults that only blocks and CARs have.
func (p *Provider) spoilBlocks(w http.ResponseWriter, r *http.Request) (http.ResponseWriter, bool) {
	if f, ok := p.faults.hit(RetrieveOther); ok {
		return &blockWriter{ResponseWriter: w, each: func(n int64, b []byte) ([]byte, bool) {
			if n != orDefault(f.Number, 1) {
				return b, true
			}
			return others(b), true
		}}, false
	}
	if f, ok := p.faults.hit(RetrieveMid); ok {
		return &blockWriter{ResponseWriter: w, each: func(n int64, b []byte) ([]byte, bool) {
			if n != orDefault(f.Number, 1) {
				return b, true
			}
			return b[:len(b)/2], false
		}}, false
	}
	if format(r) != typeCAR {
		return w, false
	}
	if f, ok := p.faults.hit(RetrieveShort); ok {
		return &blockWriter{ResponseWriter: w, each: func(n int64, b []byte) ([]byte, bool) {
			if n > orDefault(f.Number, 1) {
				return nil, true
			}
			return b, true
		}}, false
	}
	if _, ok := p.faults.hit(RetrieveExtra); ok {
		return &blockWriter{ResponseWriter: w, each: func(n int64, b []byte) ([]byte, bool) {
			extra, err := unasked(n, 1<<10)
			if err != nil {
				return b, true
			}
			return append(bytes.Clone(b), extra...), true
		}}, false
	}
	if _, ok := p.faults.hit(RetrieveEndless); ok {
		p.serveEndless(w, r)
		return w, true
	}
	return w, false
}

// others are as many bytes, none of which is right at its place.
func others(b []byte) []byte {
	wrong := bytes.Clone(b)
	for i := range wrong {
		wrong[i] ^= 0x55
	}
	return wrong
}

// unasked is the n-th of the blocks that belong to nothing, as a section of a CAR.
func unasked(n int64, size int) ([]byte, error) {
	data := binary.BigEndian.AppendUint64(make([]byte, size), uint64(n)) //nolint:gosec // any number
	mh, err := multihash.Sum(data, multihash.SHA2_256, -1)
	if err != nil {
		return nil, fmt.Errorf("hashing a block: %w", err)
	}
	var section bytes.Buffer
	err = (&carStream{w: &section}).section(cid.NewCidV1(cid.Raw, mh).Bytes(), data)
	return section.Bytes(), err
}

// A blockWriter passes every block through each, with its number from 1, and drops the connection after what each says
// is the last. A CAR comes section by section; of these it changes the bytes of the block alone.
type blockWriter struct {
	http.ResponseWriter
	each   func(n int64, block []byte) (instead []byte, on bool)
	writes int64
}

func (b *blockWriter) Write(data []byte) (int, error) {
	if strings.HasPrefix(b.Header().Get("Content-Type"), "text/plain") {
		return b.ResponseWriter.Write(data) // an error
	}
	b.writes++
	n, head := b.writes, 0
	if strings.HasPrefix(b.Header().Get("Content-Type"), typeCAR) {
		if n--; n == 0 {
			return b.ResponseWriter.Write(data)
		}
		head = headOf(data)
	}
	instead, on := b.each(n, data[head:])
	if len(instead) > 0 {
		if _, err := b.ResponseWriter.Write(append(bytes.Clone(data[:head]), instead...)); err != nil {
			return 0, err
		}
	}
	if !on {
		_ = http.NewResponseController(b.ResponseWriter).Flush()
		panic(http.ErrAbortHandler)
	}
	return len(data), nil
}

// headOf is how many bytes of a section come before its block.
func headOf(section []byte) int {
	_, n := binary.Uvarint(section)
	if n <= 0 {
		return 0
	}
	length, _, err := cid.CidFromBytes(section[n:])
	if err != nil {
		return 0
	}
	return n + length
}

// A dripWriter serves a little at a time.
type dripWriter struct {
	http.ResponseWriter
	ctx   context.Context //nolint:containedctx // of the request that it answers
	bytes int64
	pause time.Duration
}

func (d *dripWriter) Write(b []byte) (int, error) {
	written := 0
	for written < len(b) {
		end := min(len(b), written+int(d.bytes))
		n, err := d.ResponseWriter.Write(b[written:end])
		if written += n; err != nil {
			return written, err
		}
		if err := http.NewResponseController(d.ResponseWriter).Flush(); err != nil {
			return written, err
		}
		if err := wait(d.ctx, d.pause); err != nil {
			return written, err
		}
	}
	return written, nil
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
	for n := int64(0); r.Context().Err() == nil; n++ {
		section, err := unasked(n, 64<<10)
		if err != nil {
			return
		}
		if _, err := w.Write(section); err != nil {
			return
		}
	}
}
