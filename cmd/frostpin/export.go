package main

import (
	"archive/tar"
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
	"github.com/spf13/cobra"

	"github.com/frostpin/frostpin/spec"
)

// What is in an export, beside receipts/<requestid>.json and cars/<cid>.car.
const (
	manifestFile = "pins.jsonl"
	sumsFile     = "SHA256SUMS" // for sha256sum -c
	tarSuffix    = ".tar"
)

// exportVersion is that of the manifest: another one is not read.
const exportVersion = 1

// A manifestHeader is the first line of the manifest. Each further line is a PinStatus of the Pinning Service API.
type manifestHeader struct {
	Version  int    `json:"frostpin-export"`
	Exported string `json:"exported,omitempty"` // when, RFC 3339
	Source   string `json:"source,omitempty"`   // the server's address
}

func carName(c cid.Cid) string       { return "cars/" + spec.Canonical(c).String() + ".car" }
func receiptName(id string) string   { return "receipts/" + id + ".json" }
func inside(dir, name string) string { return filepath.Join(dir, filepath.FromSlash(name)) }

// safeName is what the part of a name may be that a server or an export has chosen.
var safeName = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9._-]{0,239}$`)

func (p *program) exportCommand() *cobra.Command {
	var server serverFlags
	var statuses []string
	var e export
	var without bool
	var account string
	c := withJSON(&cobra.Command{
		Use:   "export DIR|FILE.tar",
		Short: "Write pins, receipts and data to files",
		Long: `Write all pins of a token's account to a directory, or to a tar file: pins.jsonl describes them, one a line;
receipts/ has the receipts of cold copies; cars/ has the data, each DAG once, verified block by block; SHA256SUMS has
the sum of each file. Nothing of this needs Frostpin to be read.

It can be run again: data that is there and right is not fetched again. A tar file is made from a directory beside it,
so there must be room for both. It exits with 1 when something could not be exported.

A token with the scope admin exports any account by its name, also a closed one while its pins are there
(closed-retention). The audit has it.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if c.Flags().Changed("account") && account == "" { // most likely a variable that is not set
				return errors.New("--account is empty: name an account, or leave the flag out for the token's own")
			}
			var err error
			if e.statuses, err = parseStatuses(statuses); err != nil {
				return err
			}
			if e.api, err = p.connect(c, server); err != nil {
				return err
			}
			e.api.account = account
			e.cars, e.now, e.summary.verb = !without, p.now, "exported"
			stop := e.summary.watch(p.stderr)
			if target := args[0]; strings.HasSuffix(target, tarSuffix) {
				err = e.toTar(c.Context(), target)
			} else {
				err = e.toDir(c.Context(), target)
			}
			stop()
			return p.conclude(c, &e.summary, err)
		},
	})
	server.add(c)
	c.Flags().StringSliceVar(&statuses, "status", nil, "Only pins in these states: queued, pinning, pinned, failed")
	c.Flags().StringVar(&account, "account", "", "The account to export, for a token with the scope admin (default: the token's own)")
	c.Flags().BoolVar(&without, "no-cars", false, "Leave the data out")
	return c
}

// An export writes what a server has into a directory.
type export struct {
	api      *api
	statuses []spec.Status
	cars     bool
	now      func() time.Time
	summary  summary

	dir  string
	mu   sync.Mutex
	sums io.Writer
	dags digests // those whose CAR is there or was tried
}

// digests is a set of texts that takes little memory for each.
type digests map[[16]byte]struct{}

// add tells whether the text is new.
func (d digests) add(text string) bool {
	sum := sha256.Sum256([]byte(text))
	key := [16]byte(sum[:16])
	_, ok := d[key]
	d[key] = struct{}{}
	return !ok
}

func (d digests) has(text string) bool {
	sum := sha256.Sum256([]byte(text))
	_, ok := d[[16]byte(sum[:16])]
	return ok
}

// toDir exports. The sums come last: an export without them is not finished.
func (e *export) toDir(ctx context.Context, dir string) error {
	e.dir, e.dags = dir, digests{}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := ownSums(dir); err != nil {
		return err
	}
	if err := os.Remove(inside(dir, sumsFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	_, err := writeFile(inside(dir, sumsFile), func(w io.Writer) error {
		buffered := bufio.NewWriter(w)
		e.sums = buffered
		sum, err := writeFile(inside(dir, manifestFile), func(w io.Writer) error { return e.manifest(ctx, w) })
		if err != nil {
			return err
		}
		return errors.Join(e.listed(manifestFile, sum), buffered.Flush())
	})
	if err != nil {
		return fmt.Errorf("exporting to %s: %w", dir, err)
	}
	return nil
}

// ownSums refuses a directory that has sums of something else, which would be lost.
func ownSums(dir string) error {
	_, err := os.Lstat(inside(dir, sumsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if _, err := os.Lstat(inside(dir, manifestFile)); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s has a %s and no %s, so it is no export: name another directory", dir, sumsFile, manifestFile)
	}
	return err
}

// ownDir refuses a directory that has what no export has: it would be removed with the rest.
func ownDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, entry := range entries {
		switch strings.TrimSuffix(entry.Name(), partial) {
		case sumsFile, manifestFile, "cars", "receipts":
		default:
			return fmt.Errorf("the export is made in %s, which has %s already: name another file", dir, plain(entry.Name()))
		}
	}
	return nil
}

// listed adds a file to the sums.
func (e *export) listed(name, sum string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	_, err := fmt.Fprintf(e.sums, "%s  %s\n", sum, name)
	return err
}

// manifest writes the lines of all pins, and their other files.
func (e *export) manifest(ctx context.Context, w io.Writer) error {
	buffered := bufio.NewWriter(w)
	lines := json.NewEncoder(buffered)
	lines.SetEscapeHTML(false)
	err := lines.Encode(manifestHeader{Version: exportVersion, Exported: e.now().UTC().Format(time.RFC3339), Source: e.api.origin})
	if err != nil {
		return err
	}
	var pending []pinned
	flush := func() error {
		err := each(ctx, pending, e.files)
		pending = pending[:0]
		return err
	}
	for row, err := range e.api.list(ctx, e.statuses) {
		if err != nil {
			return err
		}
		if !safeName.MatchString(row.ID) {
			e.summary.failed(row.ID, row.Pin, errors.New("its requestid cannot be the name of a file"))
			continue
		}
		if err := lines.Encode(row); err != nil {
			return err
		}
		if pending = append(pending, row); len(pending) == 4*parallel {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return errors.Join(flush(), buffered.Flush())
}

// files exports the receipt and the data of a pin. What fails for this pin alone is counted.
func (e *export) files(ctx context.Context, row pinned) error {
	err := e.receipt(ctx, row.ID)
	if err == nil && e.cars && row.Status == spec.Pinned {
		err = e.car(ctx, row.Pin.CID)
	}
	switch {
	case err == nil:
		e.summary.done()
	case ctx.Err() != nil || answered(err, http.StatusUnauthorized, http.StatusForbidden) || unreachable(err) || onDisk(err):
		return err
	default:
		e.summary.failed(row.ID, row.Pin, err)
	}
	return nil
}

// unreachable tells whether a server is not there at all.
func unreachable(err error) bool {
	var dial *net.OpError
	return errors.As(err, &dial) && dial.Op == "dial"
}

// onDisk tells whether our own files are what fails.
func onDisk(err error) bool {
	var p *fs.PathError
	var l *os.LinkError
	return errors.As(err, &p) || errors.As(err, &l)
}

func (e *export) receipt(ctx context.Context, id string) error {
	body, err := e.api.fetch(ctx, call{method: http.MethodGet, url: e.api.origin + "/api/v1/pins/" + url.PathEscape(id) + "/receipt"}, nil)
	if answered(err, http.StatusNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("fetching the receipt: %w", err)
	}
	if !json.Valid(body) {
		return errors.New("the receipt is not JSON")
	}
	name := receiptName(id)
	sum, err := writeFile(inside(e.dir, name), func(w io.Writer) error { _, err := w.Write(body); return err })
	if err != nil {
		return err
	}
	return e.listed(name, sum)
}

// car exports a DAG unless it is there, and right.
func (e *export) car(ctx context.Context, text string) error {
	root, err := cid.Decode(text)
	if err != nil {
		return fmt.Errorf("reading the CID: %w", err)
	}
	if root.Type() == cid.Raw && root.Prefix().MhType == multihash.IDENTITY {
		return nil // its data is in its CID
	}
	name := carName(root)
	e.mu.Lock()
	fresh := e.dags.add(name)
	e.mu.Unlock()
	if !fresh {
		return nil
	}
	path := inside(e.dir, name)
	if file, err := os.Open(path); err == nil {
		err := errors.Join(copyCAR(io.Discard, file, spec.Canonical(root)), file.Close()) //nolint:contextcheck // decoding is not cancelled
		if err == nil {
			sum, err := sumFile(path)
			if err != nil {
				return err
			}
			return e.listed(name, sum)
		}
	}
	sum, err := e.api.fetchCAR(ctx, spec.Canonical(root), path)
	if err != nil {
		return fmt.Errorf("fetching the data: %w", err)
	}
	return e.listed(name, sum)
}

// toTar exports to a directory beside the file, from which it makes the file. What an export that was ended has left
// there is used by the next.
func (e *export) toTar(ctx context.Context, path string) error {
	dir := path + ".d"
	if err := ownDir(dir); err != nil {
		return err
	}
	if err := e.toDir(ctx, dir); err != nil {
		return err
	}
	_, err := writeFile(path, func(w io.Writer) error {
		archive := tar.NewWriter(w)
		sums, err := os.Open(inside(dir, sumsFile))
		if err != nil {
			return err
		}
		defer sums.Close()
		// The manifest and the sums first, so that who reads on the fly knows what comes.
		for _, name := range []string{sumsFile, manifestFile} {
			if err := pack(archive, dir, name); err != nil {
				return err
			}
		}
		for entry, err := range readSums(sums) {
			if err != nil {
				return err
			}
			if entry.name == manifestFile {
				continue
			}
			if err := errors.Join(ctx.Err(), pack(archive, dir, entry.name)); err != nil {
				return err
			}
		}
		return archive.Close()
	})
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if e.summary.Failed > 0 {
		return nil // the next try goes on from there
	}
	return os.RemoveAll(dir)
}

func pack(archive *tar.Writer, dir, name string) error {
	file, err := os.Open(inside(dir, name))
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	header := &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: info.Size(), Mode: 0o600, ModTime: info.ModTime()}
	if err := archive.WriteHeader(header); err != nil {
		return err
	}
	_, err = io.Copy(archive, file)
	return err
}
