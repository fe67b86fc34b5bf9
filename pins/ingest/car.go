package ingest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/ipfs/go-cid"
	car "github.com/ipld/go-car/v2"

	"github.com/frostpin/frostpin/pins/hot/hold"
	"github.com/frostpin/frostpin/spec"
)

const (
	maxCARHeader  = 64 << 10  // more than MaxRoots need
	maxCID        = 256       // bytes before the data of a block
	carOverhead   = 128       // bytes that a CAR may have for each block beside its data
	carAllowance  = 1 << 20   // and for the rest
	maxBlock      = 4 << 20   // where no limit says otherwise
	biggestLength = 1<<63 - 1 // of a body whose limit would not fit
)

// readCAR stores the blocks of a CAR and returns its roots.
func readCAR(ctx context.Context, r io.Reader, s *shelf) ([]cid.Cid, error) {
	// Beside its blocks a CAR has CIDs, and version 2 an index.
	most := int64(0)
	if s.lim.Bytes > 0 && s.lim.Blocks > 0 {
		most = int64(biggestLength)
		if s.lim.Blocks < (biggestLength-s.lim.Bytes-carAllowance)/carOverhead {
			most = s.lim.Bytes + s.lim.Blocks*carOverhead + carAllowance
		}
	}
	body := &bounded{r: r, left: most, lim: most}
	block := s.lim.BlockSize
	if block == 0 {
		block = maxBlock
	}
	in, err := car.NewBlockReader(bufio.NewReaderSize(body, 64<<10),
		car.WithTrustedCAR(true), // the tier verifies every block before it stores it
		car.MaxAllowedHeaderSize(maxCARHeader), car.MaxAllowedSectionSize(uint64(block+maxCID)))
	switch {
	case err != nil:
		return nil, body.or("is not a CAR of version 1 or 2")
	case len(in.Roots) == 0:
		return nil, invalid("is a CAR without a root")
	case len(in.Roots) > MaxRoots:
		return nil, invalid(fmt.Sprintf("is a CAR with more than %d roots", MaxRoots))
	}
	roots, met := []cid.Cid{}, cid.NewSet()
	for _, root := range in.Roots {
		if err := hold.Admit(root); err != nil {
			return nil, err
		}
		if met.Visit(spec.Canonical(root)) {
			roots = append(roots, root)
		}
	}
	for {
		b, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, body.or(fmt.Sprintf("is a CAR that breaks off or is damaged after block %d, or has a block that is too large", s.count))
		}
		if err := s.Put(ctx, b); err != nil {
			return nil, err
		}
	}
	if _, err := io.Copy(io.Discard, body); err != nil { // the index of version 2
		return nil, err
	}
	return roots, s.flush(ctx)
}
