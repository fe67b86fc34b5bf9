package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/ipld/go-car/v2"
	"github.com/ipld/go-car/v2/storage"
	"github.com/multiformats/go-multihash"

	"github.com/frostpin/frostpin/pins/hot/hold"
	"github.com/frostpin/frostpin/spec"
)

// Bounds of a CAR that somebody else has made.
const (
	maxCARHeader = 1 << 20
	maxCARBlock  = 4 << 20 // more than the 2 MiB that IPFS moves, since a section has its CID too
	maxIdentity  = 128     // bytes of data in a CID
)

// A dagProof follows a stream of blocks and knows what is missing below the root. It remembers 40 bytes or so for
// each block.
type dagProof struct {
	decoder hold.Decoder
	have    map[string]struct{} // multihash and codec of what has come
	open    map[string]struct{} // of what is linked to and has not
}

func newDAGProof(root cid.Cid) (*dagProof, error) {
	p := &dagProof{decoder: hold.NewDecoder(), have: map[string]struct{}{}, open: map[string]struct{}{}}
	return p, p.want(root)
}

// want notes that a block has to come. What a CID carries in itself is there already.
func (p *dagProof) want(c cid.Cid) error {
	c = spec.Canonical(c)
	key := c.KeyString()
	if _, ok := p.have[key]; ok {
		return nil
	}
	if c.Prefix().MhType == multihash.IDENTITY {
		decoded, err := multihash.Decode(c.Hash())
		if err != nil || len(decoded.Digest) > maxIdentity {
			return fmt.Errorf("block %s is no proper identity CID", c)
		}
		return p.take(c, decoded.Digest)
	}
	p.open[key] = struct{}{}
	return nil
}

// take follows the links of a verified block.
func (p *dagProof) take(c cid.Cid, data []byte) error {
	c = spec.Canonical(c)
	key := c.KeyString()
	if _, ok := p.have[key]; ok {
		return nil
	}
	p.have[key] = struct{}{}
	delete(p.open, key)
	links, err := p.decoder.Links(c, data)
	if err != nil {
		return err
	}
	for _, link := range links {
		if err := p.want(link); err != nil {
			return err
		}
	}
	return nil
}

// wanted tells whether the DAG, as far as it is known, has this block and lacks it still.
func (p *dagProof) wanted(c cid.Cid) bool {
	_, ok := p.open[spec.Canonical(c).KeyString()]
	return ok
}

func (p *dagProof) complete() error {
	if n := len(p.open); n > 0 {
		return fmt.Errorf("%d of the blocks that it links to are missing", n)
	}
	return nil
}

// copyCAR is copyBlocks for a whole DAG: it fails unless that is complete.
func copyCAR(w io.Writer, r io.Reader, root cid.Cid) error {
	proof, err := copyBlocks(w, r, root)
	if err != nil {
		return err
	}
	// An answer that ends between two blocks looks like a whole one.
	if err := proof.complete(); err != nil {
		return errors.Join(errCut, err)
	}
	return nil
}

// copyBlocks reads a CAR, verifies each block, and writes those of the DAG, each once, as a CAR of version 1 with this
// root. A block that nobody asked for is an error: a stream of them has no end.
func copyBlocks(w io.Writer, r io.Reader, root cid.Cid) (*dagProof, error) {
	reader, err := car.NewBlockReader(bufio.NewReaderSize(r, 64<<10), car.MaxAllowedHeaderSize(maxCARHeader), car.MaxAllowedSectionSize(maxCARBlock))
	if err != nil {
		return nil, cut(fmt.Errorf("reading the CAR: %w", err))
	}
	proof, err := newDAGProof(root)
	if err != nil {
		return nil, err
	}
	out, err := storage.NewWritable(w, []cid.Cid{root}, car.WriteAsCarV1(true), car.AllowDuplicatePuts(true))
	if err != nil {
		return nil, fmt.Errorf("writing the CAR: %w", err)
	}
	for {
		b, err := reader.Next() // verifies
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, cut(fmt.Errorf("reading the CAR: %w", err))
		}
		if !proof.wanted(b.Cid()) {
			if _, again := proof.have[spec.Canonical(b.Cid()).KeyString()]; again {
				continue
			}
			return nil, fmt.Errorf("the CAR has block %s, which is no part of the DAG or comes before what links to it", b.Cid())
		}
		if err := proof.take(b.Cid(), b.RawData()); err != nil {
			return nil, err
		}
		if err := out.Put(context.Background(), b.Cid().KeyString(), b.RawData()); err != nil {
			return nil, fmt.Errorf("writing the CAR: %w", err)
		}
	}
	return proof, nil
}

// cut marks an error as the end of a stream before its end, if it is one.
func cut(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.Join(errCut, err)
	}
	return err
}

// stallPatience is how long a stream may be silent.
const stallPatience = 2 * time.Minute

// fetchCAR writes the CAR of a DAG to path, which exists only when the DAG is whole, and returns its sum.
func (a *api) fetchCAR(ctx context.Context, root cid.Cid, path string) (sum string, err error) {
	err = a.retry(ctx, func(ctx context.Context) error {
		sum, err = writeFile(path, func(w io.Writer) error { return a.streamCAR(ctx, root, w) })
		return err
	}, nil)
	return sum, err
}

func (a *api) streamCAR(ctx context.Context, root cid.Cid, w io.Writer) error {
	return a.readCAR(ctx, root, nil, func(body io.Reader) error { //nolint:contextcheck // decoding is not cancelled
		buffered := bufio.NewWriterSize(w, 256<<10)
		if err := copyCAR(buffered, body, root); err != nil {
			return err
		}
		return buffered.Flush()
	})
}

// readCAR has read read the CAR of what is at a path below a root, together with the blocks on the way there.
func (a *api) readCAR(ctx context.Context, root cid.Cid, path []string, read func(io.Reader) error) error {
	if root.Prefix().MhType == multihash.IDENTITY && root.Type() == cid.Raw {
		return errNoBlocks
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stalled := fmt.Errorf("%w: nothing has come for %v", errCut, stallPatience)
	watch := time.AfterFunc(stallPatience, func() { cancel(stalled) })
	defer watch.Stop()
	names := []string{a.origin, "ipfs", root.String()}
	for _, segment := range path {
		names = append(names, url.PathEscape(segment))
	}
	response, err := a.send(ctx, call{
		method: http.MethodGet,
		url:    strings.Join(names, "/") + "?format=car&dag-scope=all&car-order=dfs&car-dups=n",
		header: http.Header{"Accept": {carType + "; version=1; order=dfs; dups=n"}},
	}, nil)
	if err != nil {
		return causeOf(ctx, err)
	}
	defer response.Body.Close()
	if kind := response.Header.Get("Content-Type"); !strings.HasPrefix(kind, carType) {
		return fmt.Errorf("it sends %q instead of a CAR", kind)
	}
	if err := read(alive{response.Body, watch}); err != nil {
		return causeOf(ctx, err)
	}
	return nil
}

// errNoBlocks is the CAR of a DAG whose CID is its data.
var errNoBlocks = errors.New("its data is in its CID")

// causeOf is why a request ended: the reason for which its context did, if it did.
func causeOf(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// alive puts a deadline off with every byte.
type alive struct {
	r     io.Reader
	watch *time.Timer
}

func (a alive) Read(b []byte) (int, error) {
	n, err := a.r.Read(b)
	if n > 0 {
		a.watch.Reset(stallPatience)
	}
	return n, err
}

// writeFile makes a file that is whole and on the disk, or not there under its name. It returns the SHA-256 of it.
func writeFile(path string, fill func(io.Writer) error) (sum string, err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", err
	}
	file, err := os.OpenFile(path+partial, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return "", err
	}
	digest := sha256.New()
	err = fill(io.MultiWriter(file, digest))
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return "", errors.Join(err, os.Remove(path+partial))
	}
	if err := os.Rename(path+partial, path); err != nil {
		return "", err
	}
	return sumText(digest), syncDir(filepath.Dir(path))
}

// partial ends the name of a file that is being written.
const partial = ".partial"

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	_ = dir.Sync() // not every system can
	return dir.Close()
}

func sumText(h hash.Hash) string { return hex.EncodeToString(h.Sum(nil)) }

// sumFile is the SHA-256 of a file.
func sumFile(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	digest := sha256.New()
	if _, err := io.Copy(digest, file); err != nil {
		return "", fmt.Errorf("reading %s: %w", path, err)
	}
	return sumText(digest), nil
}
