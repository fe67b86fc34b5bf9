package main

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/ipfs/boxo/files"
	"github.com/spf13/cobra"

	"github.com/frostpin/frostpin/deals"
	"github.com/frostpin/frostpin/spec"
)

const (
	carSuffix = ".car"
	tarType   = "application/x-tar"
	fileType  = "application/octet-stream"
)

func (p *program) addCommand() *cobra.Command {
	var server serverFlags
	var a adder
	var meta []string
	var expires string
	var quiet bool
	c := withJSON(&cobra.Command{
		Use:   "add PATH|-",
		Short: "Upload a file or a directory and pin it",
		Long: `Upload a file or a directory, or what comes on standard input (-), and pin it. It is pinned under the CID that
"ipfs add --cid-version=1 -r" gives it, and printed with the id of the request: CID REQUESTID, one line for each pin.

A file that ends with .car, or any with --car, is a CAR whose roots are pinned as they are; --car=false sends such a file
as a plain one. As with ipfs add, names in a directory that begin with a dot are left out (--hidden takes them), and
symbolic links are kept as links: what they lead to is not sent. Devices, pipes and sockets are an error.

Nothing is kept in memory or on disk on the way. An upload that breaks off, or that the server puts off, is tried again
without making a second pin; what comes on standard input is not, once the server has begun to read it.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) (err error) {
			if expires != "" {
				meta = append(meta, "frostpin.expires="+expires)
			}
			if a.meta, err = parsePairs(meta); err != nil {
				return err
			}
			a.path, a.stdin = args[0], c.InOrStdin()
			a.named, a.kindGiven = c.Flags().Changed("name"), c.Flags().Changed("car")
			u, total, err := a.upload()
			if err != nil {
				return err
			}
			if a.api, err = p.connect(c, server); err != nil {
				return err
			}
			meter := p.meter("sent", total)
			u.open = meter.opens(u.open)
			made, err := a.api.upload(c.Context(), u)
			meter.stop()
			if err != nil {
				return fmt.Errorf("adding %s: %w", a.path, err)
			}
			if err := p.printAdded(c, made, quiet); err != nil {
				return err
			}
			return a.await(c.Context(), made)
		},
	})
	server.add(c)
	flags := c.Flags()
	flags.StringVar(&a.name, "name", "", "Name of the pin (default: that of the file or directory)")
	flags.StringArrayVar(&meta, "meta", nil, "Meta of the pin, as KEY=VALUE; may be given several times")
	flags.StringVar(&expires, "expires", "", "When the pin is removed by itself: a time such as 2027-01-31T12:00:00Z, or a duration such as 720h or 30d (default: never)")
	flags.StringVar(&a.policy, "policy", "", "A policy for cold copies")
	flags.BoolVar(&a.car, "car", false, "It is a CAR (default: if its name ends with .car)")
	flags.BoolVarP(&a.hidden, "hidden", "H", false, "Also what begins with a dot in directories")
	flags.BoolVar(&a.wait, "wait", false, "Wait until it is pinned")
	flags.BoolVar(&a.waitCold, "wait-cold", false, "Wait until all its cold copies are proven too, which takes hours to days")
	flags.BoolVarP(&quiet, "quiet", "q", false, "Print the CID only")
	return c
}

// printAdded prints the answer to an upload.
func (p *program) printAdded(c *cobra.Command, made []pinned, quiet bool) error {
	if wantsJSON(c) {
		return printJSON(p.stdout, made)
	}
	for _, row := range made {
		line := row.Pin.CID
		if !quiet {
			line += " " + row.ID
		}
		if _, err := fmt.Fprintln(p.stdout, plain(line)); err != nil {
			return err
		}
	}
	return nil
}

// parsePairs reads KEY=VALUE.
func parsePairs(pairs []string) (map[string]string, error) {
	meta := make(map[string]string, len(pairs))
	for _, pair := range pairs {
		key, value, ok := strings.Cut(pair, "=")
		if _, twice := meta[key]; !ok || key == "" || twice {
			return nil, fmt.Errorf("--meta %q is not KEY=VALUE, or has a key a second time", pair)
		}
		meta[key] = value
	}
	return meta, nil
}

// An adder uploads one path.
type adder struct {
	api            *api
	stdin          io.Reader
	path           string
	name           string
	meta           map[string]string
	policy         string
	car            bool
	named          bool // name was given
	kindGiven      bool // car was given
	hidden         bool
	wait, waitCold bool
}

// upload says what is to be sent, and how many bytes that is, 0: unknown.
func (a *adder) upload() (u upload, total int64, err error) {
	u.key = uuid.NewString()
	name := a.name
	if a.path == "-" {
		u.kind, u.open = fileType, once(a.stdin)
	} else {
		if !a.named {
			name = baseName(a.path)
		}
		if u, total, err = a.opens(u); err != nil {
			return upload{}, 0, err
		}
	}
	if a.kindGiven && a.car {
		if u.kind == tarType {
			return upload{}, 0, fmt.Errorf("%s is no file, so it is no CAR", a.path)
		}
		u.kind = carType
	}
	if err := u.describe(name, a.meta); err != nil {
		return upload{}, 0, err
	}
	if a.policy != "" {
		u.query.Set("policy", a.policy)
	}
	return u, total, nil
}

// opens is how a path is read: a file as it is, all else as a tar that is made while it is sent.
func (a *adder) opens(u upload) (upload, int64, error) {
	info, err := os.Lstat(a.path)
	if err != nil {
		return upload{}, 0, err
	}
	if !info.Mode().IsRegular() {
		u.kind, u.open = tarType, func() (io.ReadCloser, int64, error) { return streamTar(a.path, a.hidden) }
		return u, 0, nil
	}
	u.kind = fileType
	if !a.kindGiven && strings.EqualFold(filepath.Ext(a.path), carSuffix) {
		u.kind = carType
	}
	u.open = func() (io.ReadCloser, int64, error) {
		file, err := os.Open(a.path)
		if err != nil {
			return nil, 0, err
		}
		info, err := file.Stat()
		if err != nil {
			return nil, 0, errors.Join(err, file.Close())
		}
		return file, info.Size(), nil
	}
	return u, info.Size(), nil
}

// baseName is the name of what a path leads to, if it has one.
func baseName(path string) string {
	whole, err := filepath.Abs(path)
	if err != nil {
		return ""
	}
	if name := filepath.Base(whole); name != string(filepath.Separator) {
		return name
	}
	return ""
}

// top is what the only entry at the top of a tar is called; what it becomes has no name.
const top = "data"

// streamTar streams a directory, or a symbolic link, as a tar.
func streamTar(path string, hidden bool) (io.ReadCloser, int64, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return nil, 0, err
	}
	node, err := files.NewSerialFile(path, hidden, info)
	if err != nil {
		return nil, 0, err
	}
	r, w := io.Pipe()
	go func() { w.CloseWithError(writeTar(w, node)) }() // ends when r is closed
	return r, 0, nil
}

func writeTar(w io.Writer, node files.Node) error {
	out := tar.NewWriter(w)
	if err := packNode(out, node, top); err != nil {
		return err
	}
	return out.Close()
}

// packNode writes what is at and below a node. boxo's own writer leaves every file open.
func packNode(out *tar.Writer, node files.Node, name string) (err error) {
	defer func() { err = errors.Join(err, node.Close()) }()
	header := &tar.Header{Name: name, Mode: 0o644}
	switch n := node.(type) {
	case *files.Symlink:
		header.Typeflag, header.Linkname = tar.TypeSymlink, n.Target
		return out.WriteHeader(header)
	case files.Directory:
		header.Typeflag, header.Name, header.Mode = tar.TypeDir, name+"/", 0o755
		if err := out.WriteHeader(header); err != nil {
			return err
		}
		entries := n.Entries()
		for entries.Next() {
			if err := packNode(out, entries.Node(), name+"/"+entries.Name()); err != nil {
				return err
			}
		}
		return entries.Err()
	case files.File:
		header.Typeflag = tar.TypeReg
		if header.Size, err = n.Size(); err != nil {
			return err
		}
		if err := out.WriteHeader(header); err != nil {
			return err
		}
		if _, err = io.Copy(out, n); err == nil {
			err = out.Flush() // fails where the file has become shorter
		}
		if err != nil {
			err = fmt.Errorf("reading %s: %w", strings.TrimPrefix(name, top+"/"), err)
		}
		return err
	}
	return fmt.Errorf("%s is neither a file, nor a directory, nor a symbolic link", name)
}

// once is data that can be read from its beginning as long as nothing of it has been read.
func once(r io.Reader) func() (io.ReadCloser, int64, error) {
	s := &stream{r: r}
	return func() (io.ReadCloser, int64, error) {
		if s.begun.Load() {
			return nil, 0, errOnce
		}
		return io.NopCloser(s), 0, nil
	}
}

// A stream knows whether it has been read.
type stream struct {
	r     io.Reader
	begun atomic.Bool
}

func (s *stream) Read(b []byte) (int, error) {
	s.begun.Store(true)
	return s.r.Read(b)
}

// nextLook is the time between two looks at a pin that is waited for.
const nextLook = 2 * time.Second

// await waits for what was asked to be waited for. A pin that fails, or gets no cold copies, is an error.
func (a *adder) await(ctx context.Context, made []pinned) error {
	if !a.wait && !a.waitCold {
		return nil
	}
	for _, row := range made {
		name := row.Pin.CID
		for {
			done, err := a.settled(row)
			if err != nil {
				return err
			}
			if done {
				break
			}
			if err := a.api.pause(ctx, nextLook); err != nil {
				return err
			}
			if row, err = a.api.pin(ctx, row.ID); err != nil {
				return fmt.Errorf("waiting for %s: %w", name, err)
			}
		}
	}
	return nil
}

// settled tells whether a pin is what it was waited for.
func (a *adder) settled(row pinned) (bool, error) {
	if row.Status == spec.Failed {
		return false, fmt.Errorf("pinning %s failed: %s", row.Pin.CID, row.Info["status_details"])
	}
	if row.Status != spec.Pinned || !a.waitCold {
		return row.Status == spec.Pinned, nil
	}
	switch deals.Cold(row.Info["cold_status"]) {
	case deals.ColdStored:
		return true, nil
	case deals.ColdDisabled:
		return false, fmt.Errorf("%s gets no cold copies here", row.Pin.CID)
	case deals.ColdFailed:
		return false, fmt.Errorf("the cold copies of %s were given up: %s", row.Pin.CID, row.Info["status_details"])
	case deals.ColdPending, deals.ColdInProgress, deals.ColdDegraded:
	}
	return false, nil
}

// pin asks for one pin.
func (a *api) pin(ctx context.Context, id string) (row pinned, err error) {
	body, err := a.fetch(ctx, call{method: http.MethodGet, url: a.endpoint + "/pins/" + url.PathEscape(id)}, nil)
	if err != nil {
		return pinned{}, err
	}
	return row, json.Unmarshal(body, &row)
}
