package piece_test

import (
	"encoding/csv"
	"flag"
	"io"
	"math/rand"
	"os"
	"strconv"
	"testing"

	"github.com/frostpin/frostpin/deals/piece"
)

// The largest vectors have 32 GiB, and all of them 325 GB: half an hour of hashing.
var largest = flag.Int64("vectors", 32<<20, "compute vectors of at most so many bytes; 0 for all")

func TestPublishedVectors(t *testing.T) {
	seen := 0
	for name, input := range map[string]func() io.Reader{
		"zero":   func() io.Reader { return same(0) },
		"0xCC":   func() io.Reader { return same(0xCC) },
		"random": func() io.Reader { return &goRandom{source: rand.New(rand.NewSource(1337))} },
	} {
		file, err := os.Open("testdata/" + name + ".txt")
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		vectors, err := csv.NewReader(file).ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		seen += len(vectors)
		t.Run(name, func(t *testing.T) {
			for _, v := range vectors {
				size, err := strconv.ParseInt(v[0], 10, 64)
				if err != nil {
					t.Fatal(err)
				}
				if padded := strconv.FormatUint(uint64(piece.PieceSize(size)), 10); padded != v[1] {
					t.Errorf("%d bytes take a piece of %s, want %s", size, padded, v[1])
				}
				if *largest > 0 && size > *largest || testing.Short() && size > 1<<20 {
					continue
				}
				p, err := piece.Sum(io.LimitReader(input(), size))
				if err != nil {
					t.Fatal(err)
				}
				if p.CIDv1.String() != v[2] || p.Size != piece.PieceSize(size) || p.CARSize != size {
					t.Errorf("%d bytes: %+v, want %s", size, p, v[2])
				}
			}
		})
	}
	if seen != 179 {
		t.Errorf("there are %d vectors, want 179", seen)
	}
}

// same reads one byte for ever.
type same byte

func (b same) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(b)
	}
	return len(p), nil
}

// goRandom reads what jbenet/go-random writes.
type goRandom struct {
	source *rand.Rand
	left   uint32
	bytes  int // in left
}

func (g *goRandom) Read(p []byte) (int, error) {
	for i := range p {
		if g.bytes == 0 {
			g.left, g.bytes = g.source.Uint32(), 4
		}
		p[i] = byte(g.left)
		g.left >>= 8
		g.bytes--
	}
	return len(p), nil
}
