package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"sync"

	"github.com/ipfs/go-cid"
	"github.com/ipld/go-car/v2"
	"github.com/spf13/cobra"

	"github.com/frostpin/frostpin/spec"
)

func (p *program) importCommand() *cobra.Command {
	var server serverFlags
	c := withJSON(&cobra.Command{
		Use:   "import DIR|FILE.tar",
		Short: "Read an export into a server",
		Long: `Read what "frostpin export" wrote into a server: pins with their names and meta, and the data where the export
has it; other pins are fetched over the IPFS network, as if they had been asked for anew. All sums are checked first.

It can be run again: pins that are there already, by CID and name, are left alone. One of those that has failed, and
whose data the export has, counts as a failure. With --json it prints, as it goes, which request of the export became
which of the server, one a line. It exits with 1 when pins could not be imported.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) (err error) {
			i := importer{dags: digests{}}
			i.summary.verb = "imported"
			if i.api, err = p.connect(c, server); err != nil {
				return err
			}
			if i.archive, err = openArchive(args[0]); err != nil {
				return fmt.Errorf("opening the export: %w", err)
			}
			defer func() { err = errors.Join(err, i.archive.Close()) }()
			if wantsJSON(c) {
				i.lines = json.NewEncoder(p.stdout)
			}
			stop := i.summary.watch(p.stderr)
			err = i.run(c.Context())
			stop()
			if i.lines == nil {
				return p.conclude(c, &i.summary, err)
			}
			if err := errors.Join(err, i.summary.print(p.stderr)); err != nil {
				return err
			}
			if i.summary.Failed > 0 {
				return errReported
			}
			return nil
		},
	})
	server.add(c)
	return c
}

// An importer reads an archive into a server. It remembers nothing: what is there is asked of the server.
type importer struct {
	api     *api
	archive archive
	summary summary
	sums    digests // names of files whose sum is right

	mu    sync.Mutex
	lines *json.Encoder // nil: not wanted
	dags  digests       // those that this run has brought
}

func (i *importer) run(ctx context.Context) error {
	if err := i.verify(ctx); err != nil {
		return fmt.Errorf("the export is damaged: %w", err)
	}
	manifest, _, err := i.archive.Open(manifestFile)
	if err != nil {
		return err
	}
	defer manifest.Close()
	var pending []pinned
	for row, err := range readManifest(manifest) {
		if err != nil {
			return err
		}
		if pending = append(pending, row); len(pending) == batch {
			if err := i.batch(ctx, pending); err != nil {
				return err
			}
			pending = pending[:0]
		}
	}
	return i.batch(ctx, pending)
}

// verify checks every file against its sum. The manifest must be among them.
func (i *importer) verify(ctx context.Context) error {
	i.sums = digests{}
	sums, _, err := i.archive.Open(sumsFile)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is not there: the export has not been finished, run it again", sumsFile)
	}
	if err != nil {
		return err
	}
	defer sums.Close()
	for line, err := range readSums(sums) {
		if err := errors.Join(err, ctx.Err()); err != nil {
			return err
		}
		file, _, err := i.archive.Open(line.name)
		if err != nil {
			return err
		}
		digest := sha256.New()
		_, err = io.Copy(digest, file)
		if err := errors.Join(err, file.Close()); err != nil {
			return fmt.Errorf("reading %s: %w", line.name, err)
		}
		if sumText(digest) != line.sum {
			return fmt.Errorf("%s is not as it was written", line.name)
		}
		i.sums.add(line.name)
	}
	if !i.sums.has(manifestFile) {
		return fmt.Errorf("%s does not have the sum of %s", sumsFile, manifestFile)
	}
	return nil
}

// batch imports some pins. Those of one DAG go one after the other, so that its data goes once.
func (i *importer) batch(ctx context.Context, rows []pinned) error {
	if len(rows) == 0 {
		return ctx.Err()
	}
	pins := make([]wanted, len(rows))
	for n, row := range rows {
		pins[n] = row.Pin
	}
	have, err := i.api.present(ctx, pins)
	if err != nil {
		return err
	}
	for s, row := range have {
		if row.Status == spec.Pinned {
			i.dags.add(s.dag)
		}
	}
	var order []string
	byDAG := map[string][]pinned{}
	for _, row := range rows {
		dag := row.Pin.same().dag
		if byDAG[dag] == nil {
			order = append(order, dag)
		}
		byDAG[dag] = append(byDAG[dag], row)
	}
	return each(ctx, order, func(ctx context.Context, dag string) error {
		done := map[same]pinned{}
		for _, row := range byDAG[dag] {
			key := row.Pin.same()
			there, ok := have[key]
			if !ok {
				there, ok = done[key]
			}
			if root, err := cid.Decode(row.Pin.CID); ok && err == nil && there.Status == spec.Failed && i.sums.has(carName(root)) {
				i.summary.failed(row.ID, row.Pin, errFailedThere)
				continue
			}
			if ok {
				i.summary.skipped()
				if err := i.report(row.ID, there.ID); err != nil {
					return err
				}
				continue
			}
			there, err := i.pin(ctx, row, dag)
			if err == nil && there.Pin.same().dag != dag {
				err = fmt.Errorf("the server has made a pin of %s of it", there.Pin.CID)
			}
			switch {
			case err == nil:
				done[key] = there
				i.summary.done()
				if err := i.report(row.ID, there.ID); err != nil {
					return err
				}
			case i.summary.hopeless(ctx, err):
				return fmt.Errorf("importing %s: %w", row.Pin.CID, err)
			default:
				i.summary.failed(row.ID, row.Pin, err)
			}
		}
		return nil
	})
}

// errFailedThere is a pin that would be left alone although the export has what it lacks. To make a second one, or to remove
// this one, is for whoever owns it to decide.
var errFailedThere = errors.New("it is there already and has failed: remove it, and import again, to have its data sent")

// report prints what became of a request.
func (i *importer) report(from, to string) error {
	if i.lines == nil {
		return nil
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.lines.Encode(struct {
		Old string `json:"old"`
		New string `json:"new"`
	}{from, to})
}

// pin makes a pin that is not there: with its data, unless the server has that or the export has not.
func (i *importer) pin(ctx context.Context, row pinned, dag string) (pinned, error) {
	root, err := cid.Decode(row.Pin.CID)
	if err != nil {
		return pinned{}, fmt.Errorf("reading the CID: %w", err)
	}
	i.mu.Lock()
	brought := i.dags.has(dag)
	i.mu.Unlock()
	if name := carName(root); !brought && i.sums.has(name) {
		there, err := i.upload(ctx, row, root, name)
		if err == nil {
			i.mu.Lock()
			i.dags.add(dag)
			i.mu.Unlock()
		}
		return there, err
	}
	w := row.Pin
	w.Origins = append(slices.Clip(w.Origins), row.Delegates...)
	w.Origins = w.Origins[:min(len(w.Origins), 20)]
	return i.api.post(ctx, w)
}

// upload sends the data of a pin and makes the pin with it. The key makes the server know a repetition.
func (i *importer) upload(ctx context.Context, row pinned, root cid.Cid, name string) (pinned, error) {
	if err := i.rooted(root, name); err != nil {
		return pinned{}, err
	}
	sum := sha256.Sum256([]byte("frostpin import\n" + row.ID + "\n" + spec.Canonical(root).String()))
	u := upload{kind: carType, key: hex.EncodeToString(sum[:16]), open: func() (io.ReadCloser, int64, error) { return i.archive.Open(name) }}
	if err := u.describe(row.Pin.Name, row.Pin.Meta); err != nil {
		return pinned{}, err
	}
	made, err := i.api.upload(ctx, u)
	if err != nil {
		return pinned{}, err
	}
	return made[0], nil
}

// rooted makes sure that a CAR is of the DAG whose name it has, since the server pins what the CAR says.
func (i *importer) rooted(root cid.Cid, name string) error {
	file, _, err := i.archive.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	reader, err := car.NewBlockReader(bufio.NewReader(file), car.MaxAllowedHeaderSize(maxCARHeader))
	if err != nil {
		return fmt.Errorf("reading %s: %w", name, err)
	}
	if len(reader.Roots) != 1 || !spec.Canonical(reader.Roots[0]).Equals(spec.Canonical(root)) {
		return fmt.Errorf("%s is a CAR of something else: %v", name, reader.Roots)
	}
	return nil
}
