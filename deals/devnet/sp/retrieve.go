package sp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	commcid "github.com/filecoin-project/go-fil-commcid"
	"github.com/ipfs/go-cid"
	"github.com/ipld/go-ipld-prime/codec/dagcbor"
	"github.com/ipld/go-ipld-prime/datamodel"
	"github.com/ipld/go-ipld-prime/fluent/qp"
	cidlink "github.com/ipld/go-ipld-prime/linking/cid"
	"github.com/ipld/go-ipld-prime/node/basicnode"
	"github.com/multiformats/go-multihash"
)

// Bounds of parallel retrievals, as Curio's.
const (
	maxGets  = 256
	maxHeads = 128
)

const (
	typeRaw = "application/vnd.ipld.raw"
	typeCAR = "application/vnd.ipld.car"
	// What is named by its hash never changes.
	cacheForever = "public, max-age=29030400, immutable"
)

// retrievalHandler serves whole pieces and the trustless gateway.
func (p *Provider) retrievalHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /piece/{cid}", p.servePiece)
	mux.HandleFunc("GET /ipfs/{cid}", p.serveIPFS)
	mux.HandleFunc("GET /ipfs/{cid}/{path...}", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusBadRequest, "paths are not served, only roots")
	})
	gets, heads := make(chan struct{}, maxGets), make(chan struct{}, maxHeads)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		slots := gets
		if r.Method == http.MethodHead {
			slots = heads
		}
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
		default:
			answer(w, http.StatusTooManyRequests, "too many requests")
			return
		}
		if faulty, done := p.spoil(w, r); !done {
			mux.ServeHTTP(faulty, r)
		}
	})
}

func answer(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	// The client may be gone; there is nobody else to tell.
	_, _ = io.WriteString(w, text+"\n")
}

// servePiece answers for both versions of a piece CID.
func (p *Provider) servePiece(w http.ResponseWriter, r *http.Request) {
	asked, err := cid.Decode(r.PathValue("cid"))
	if err != nil {
		answer(w, http.StatusBadRequest, "not a CID")
		return
	}
	piece, size := asked, int64(-1)
	if asked.Prefix().MhType == multihash.SHA2_256_TRUNC254_PADDED {
		_, err = commcid.CIDToDataCommitmentV1(asked)
	} else {
		var raw uint64
		piece, raw, err = commcid.PieceCidV1FromV2(asked)
		size = int64(raw)
	}
	if err != nil {
		answer(w, http.StatusBadRequest, "not a piece CID")
		return
	}
	f, err := p.pieces.open(piece)
	if err != nil || !p.pieces.isServed(piece) {
		answer(w, http.StatusNotFound, "piece not found")
		return
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || size >= 0 && info.Size() != size {
		answer(w, http.StatusNotFound, "piece not found")
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Cache-Control", cacheForever)
	h.Set("ETag", `"`+asked.String()+`"`)
	http.ServeContent(w, r, "", time.Time{}, f)
}

// serveIPFS is a trustless gateway: blocks and CARs.
func (p *Provider) serveIPFS(w http.ResponseWriter, r *http.Request) {
	root, err := cid.Decode(r.PathValue("cid"))
	if err != nil {
		answer(w, http.StatusBadRequest, "not a CID")
		return
	}
	data, err := p.pieces.block(root)
	if errors.Is(err, errNoBlock) || errors.Is(err, os.ErrNotExist) {
		answer(w, http.StatusNotFound, "block not found")
		return
	}
	if err != nil {
		p.log.Warn("reading a block", "cid", root.String(), "err", err)
		answer(w, http.StatusInternalServerError, "reading the block")
		return
	}
	switch format(r) {
	case typeRaw:
		p.serveRaw(w, r, root, data)
	case typeCAR:
		p.serveCAR(w, r, root, data)
	default:
		answer(w, http.StatusNotAcceptable, "ask for format=raw or format=car")
	}
}

// format is the media type asked for; the query wins.
func format(r *http.Request) string {
	switch r.URL.Query().Get("format") {
	case "raw":
		return typeRaw
	case "car":
		return typeCAR
	}
	for accepted := range strings.SplitSeq(r.Header.Get("Accept"), ",") {
		switch media, _, _ := strings.Cut(strings.TrimSpace(accepted), ";"); media {
		case typeRaw, typeCAR:
			return media
		}
	}
	return ""
}

func (p *Provider) serveRaw(w http.ResponseWriter, r *http.Request, root cid.Cid, data []byte) {
	h := w.Header()
	h.Set("Content-Type", typeRaw)
	h.Set("Content-Disposition", `attachment; filename="`+root.String()+`.bin"`)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", cacheForever)
	h.Set("ETag", `"`+root.String()+`.raw"`)
	http.ServeContent(w, r, "", time.Time{}, strings.NewReader(string(data)))
}

func (p *Provider) serveCAR(w http.ResponseWriter, r *http.Request, root cid.Cid, data []byte) {
	scope := orDefault(r.URL.Query().Get("dag-scope"), "all")
	switch {
	case scope != "all" && scope != "block":
		answer(w, http.StatusBadRequest, "dag-scope must be all or block")
		return
	case r.URL.Query().Has("entity-bytes"):
		answer(w, http.StatusBadRequest, "entity-bytes is not served")
		return
	}
	etag := `"` + root.String() + ".car." + scope + `"`
	h := w.Header()
	h.Set("Content-Type", typeCAR+"; version=1; order=dfs; dups=n")
	h.Set("Content-Disposition", `attachment; filename="`+root.String()+`.car"`)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Accept-Ranges", "none")
	h.Set("Cache-Control", cacheForever)
	h.Set("ETag", etag)
	if r.Header.Get("If-None-Match") == etag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	if r.Method == http.MethodHead {
		return
	}
	car := &carStream{w: w, seen: make(map[cid.Cid]bool), all: scope == "all", block: p.pieces.block}
	err := car.header(root)
	if err == nil {
		err = car.walk(root, data)
	}
	if err != nil {
		p.log.Warn("serving a CAR", "cid", root.String(), "err", err)
		// The status has gone out; only cutting the connection tells that this is not the end.
		panic(http.ErrAbortHandler)
	}
}

// A carStream writes a DAG depth first, each block once.
type carStream struct {
	w     io.Writer
	seen  map[cid.Cid]bool
	all   bool
	block func(cid.Cid) ([]byte, error)
}

func (s *carStream) header(root cid.Cid) error {
	node, err := qp.BuildMap(basicnode.Prototype.Any, 2, func(m datamodel.MapAssembler) {
		qp.MapEntry(m, "roots", qp.List(1, func(l datamodel.ListAssembler) {
			qp.ListEntry(l, qp.Link(cidlink.Link{Cid: root}))
		}))
		qp.MapEntry(m, "version", qp.Int(1))
	})
	if err != nil {
		return fmt.Errorf("making the header: %w", err)
	}
	var header strings.Builder
	if err := dagcbor.Encode(node, &header); err != nil {
		return fmt.Errorf("encoding the header: %w", err)
	}
	return s.section([]byte(header.String()))
}

// section is one write.
func (s *carStream) section(parts ...[]byte) error {
	length := 0
	for _, part := range parts {
		length += len(part)
	}
	section := binary.AppendUvarint(make([]byte, 0, length+binary.MaxVarintLen64), uint64(length))
	for _, part := range parts {
		section = append(section, part...)
	}
	_, err := s.w.Write(section)
	return err
}

func (s *carStream) walk(c cid.Cid, data []byte) error {
	s.seen[c] = true
	// Identity CIDs carry their block and have none in a CAR, but what they link to has.
	if c.Prefix().MhType != multihash.IDENTITY {
		if err := s.section(c.Bytes(), data); err != nil {
			return err
		}
	}
	if !s.all {
		return nil
	}
	children, err := links(c, data)
	if err != nil {
		return err
	}
	for _, child := range children {
		if s.seen[child] {
			continue
		}
		data, err := s.block(child)
		if err != nil {
			return fmt.Errorf("block %s: %w", child, err)
		}
		if err := s.walk(child, data); err != nil {
			return err
		}
	}
	return nil
}
