package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/filecoin-project/go-fil-commp-hashhash"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	"github.com/ipfs/kubo/core"

	"github.com/frostpin/frostpin/deals/piece"
	"github.com/frostpin/frostpin/pins/hot"
	"github.com/frostpin/frostpin/pins/pinstest"
)

const (
	pieceChunk = 256 << 10 // a file as Kubo chunks it
	pieceWidth = 174
)

// piece measures making a piece of a DAG in the embedded node: its rate beside that of CommP alone, and its memory.
// Each runs in a process of its own, so that nothing else is in the figure.
func (b *bench) piece(ctx context.Context) error {
	s, err := b.fresh(ctx, "piece")
	if err != nil {
		return err
	}
	if err := s.stop(); err != nil {
		return err
	}
	repo := filepath.Join(s.dir, "ipfs")
	nd, _, err := b.node(ctx, repo, false)
	if err != nil {
		return err
	}
	small, err := addFile(ctx, nd, 1, 512<<20)
	if err != nil {
		return err
	}
	large, err := addFile(ctx, nd, 2, int64(4<<30)/int64(b.scale))
	if err != nil {
		return err
	}
	if err := nd.Close(); err != nil {
		return err
	}
	var got pieceFigures
	if err := pieceProcess(ctx, "rate", repo, small, &got); err != nil {
		return err
	}
	ratio("CAR and CommP of a DAG in the node, against CommP of a buffer", "MB/s", got.Build, got.CommP, atLeast(0.8))
	if err := pieceProcess(ctx, "memory", repo, large, &got); err != nil {
		return err
	}
	absolute(fmt.Sprintf("memory above idle for a DAG of %.1f GiB", float64(got.Bytes)/(1<<30)), "MB", got.Memory, atMost(64))
	return nil
}

// pieceFigures is what a measuring process prints.
type pieceFigures struct {
	Build  float64 `json:"build"`  // MB/s
	CommP  float64 `json:"commp"`  // MB/s
	Memory float64 `json:"memory"` // MB
	Bytes  int64   `json:"bytes"`  // of the CAR
}

func pieceProcess(ctx context.Context, what, repo string, root cid.Cid, out *pieceFigures) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, self, "-piece", strings.Join([]string{what, root.String(), repo}, ","))
	cmd.Stderr = os.Stderr
	printed, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("measuring the %s of making a piece: %w", what, err)
	}
	return json.Unmarshal(printed, out)
}

// measurePiece is such a process. What to do is "rate" or "memory", a root, and the directory of the node.
func measurePiece(ctx context.Context, what string) error {
	parts := strings.SplitN(what, ",", 3)
	if len(parts) != 3 {
		return fmt.Errorf("cannot measure %q", what)
	}
	root, err := cid.Decode(parts[1])
	if err != nil {
		return err
	}
	tier, err := hot.OpenEmbedded(ctx, hot.Config{Dir: parts[2], Network: hot.Private})
	if err != nil {
		return err
	}
	layouts, err := os.MkdirTemp("", "frostpin-layouts-")
	if err != nil {
		return errors.Join(err, tier.Close())
	}
	defer os.RemoveAll(layouts)
	store, err := piece.OpenStore(layouts, 0)
	if err == nil {
		var f pieceFigures
		build := func() error {
			p, err := store.Build(ctx, tier, root, 0)
			f.Bytes = p.CARSize
			return err
		}
		if parts[0] == "rate" {
			err = f.rates(build)
		} else {
			err = f.memory(ctx, build)
		}
		err = errors.Join(err, json.NewEncoder(os.Stdout).Encode(f))
	}
	return errors.Join(err, tier.Close())
}

// rates takes the best of three on each side, in turn: others use the machine too.
func (f *pieceFigures) rates(build func() error) error {
	if err := build(); err != nil { // reads the DAG into the system's cache
		return err
	}
	buffer := make([]byte, f.Bytes)
	if _, err := io.ReadFull(pseudoRandom(0), buffer); err != nil {
		return err
	}
	for range 3 {
		began := time.Now()
		var calc commp.Calc
		if _, err := io.Copy(&calc, bytes.NewReader(buffer)); err != nil {
			return err
		}
		if _, _, err := calc.Digest(); err != nil {
			return err
		}
		f.CommP = max(f.CommP, float64(f.Bytes)/1e6/time.Since(began).Seconds())
		began = time.Now()
		if err := build(); err != nil {
			return err
		}
		f.Build = max(f.Build, float64(f.Bytes)/1e6/time.Since(began).Seconds())
	}
	return nil
}

// memory compares the most memory the process had with what it had before.
func (f *pieceFigures) memory(ctx context.Context, build func() error) error {
	if err := pause(ctx, 3*time.Second); err != nil {
		return err
	}
	runtime.GC()
	idle, err := rssMB(os.Getpid())
	if err != nil {
		return err
	}
	watching, stop := context.WithCancel(ctx)
	most := make(chan float64, 1)
	go func() {
		peak := idle
		for pause(watching, 10*time.Millisecond) == nil {
			if now, err := rssMB(os.Getpid()); err == nil {
				peak = max(peak, now)
			}
		}
		most <- peak
	}()
	err = build()
	stop()
	f.Memory = <-most - idle
	return err
}

// pseudoRandom reads bytes that cannot be compressed and are always the same.
func pseudoRandom(seed uint64) io.Reader {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	return rand.NewChaCha8(key)
}

// addFile puts the DAG of a file of so many bytes into a node, without holding it, and returns its root.
func addFile(ctx context.Context, nd *core.IpfsNode, seed uint64, size int64) (cid.Cid, error) {
	from := pseudoRandom(seed)
	var level []cid.Cid
	var batch []blocks.Block
	for at := int64(0); at < size; at += pieceChunk {
		data := make([]byte, min(pieceChunk, size-at))
		if _, err := io.ReadFull(from, data); err != nil {
			return cid.Undef, err
		}
		leaf := pinstest.Raw(string(data))
		level = append(level, leaf.Cid())
		if batch = append(batch, leaf); len(batch) == 64 || at+pieceChunk >= size {
			if err := nd.Blockstore.PutMany(ctx, batch); err != nil {
				return cid.Undef, err
			}
			batch = batch[:0]
		}
	}
	for len(level) > 1 {
		var above []cid.Cid
		for len(level) > 0 {
			n := min(pieceWidth, len(level))
			node := pinstest.Node("", level[:n]...)
			if err := nd.Blockstore.Put(ctx, node); err != nil {
				return cid.Undef, err
			}
			level, above = level[n:], append(above, node.Cid())
		}
		level = above
	}
	return level[0], nil
}
