package receipt

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/frostpin/frostpin/deals"
	"github.com/frostpin/frostpin/deals/piece"
)

const (
	carType = "application/vnd.ipld.car"
	// stall is how long a gateway may be silent.
	stall = time.Minute
	// slack is what a CAR of a gateway may have beyond ours: other headers, some blocks twice.
	slack = 1 << 20
)

// A Gateway is a trustless IPFS gateway: what it sends is verified, and bounded by what the receipt says. Dir is a
// directory that Piece may write to while it runs; it takes as much as the CAR.
type Gateway struct {
	URL    string // such as https://ipfs.example
	Dir    string
	Client *http.Client // nil: the default one
}

// Piece implements Data.
func (g Gateway) Piece(ctx context.Context, r deals.Receipt) (_ piece.Piece, err error) {
	file, err := os.CreateTemp(g.Dir, "receipt-*.car")
	if err != nil {
		return piece.Piece{}, err
	}
	defer func() { err = errors.Join(err, os.Remove(file.Name())) }()
	if err := errors.Join(g.fetch(ctx, r, file), file.Close()); err != nil {
		return piece.Piece{}, fmt.Errorf("fetching the CAR from the gateway: %w", err)
	}
	return File{Path: file.Name(), Dir: g.Dir}.Piece(ctx, r)
}

func (g Gateway) fetch(ctx context.Context, r deals.Receipt, into io.Writer) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch := time.AfterFunc(stall, func() { cancel(errors.New("it has sent nothing for a minute")) })
	defer watch.Stop()
	address := strings.TrimRight(g.URL, "/") + "/ipfs/" + url.PathEscape(r.Root) + "?format=car&dag-scope=all&car-order=dfs&car-dups=n"
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	request.Header.Set("Accept", carType+"; version=1; order=dfs; dups=n")
	client := g.Client
	if client == nil {
		client = http.DefaultClient
	}
	response, err := client.Do(request)
	if err != nil {
		return because(ctx, err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("it answers %s", response.Status)
	}
	if kind := response.Header.Get("Content-Type"); !strings.HasPrefix(kind, carType) {
		return fmt.Errorf("it sends %q instead of a CAR", kind)
	}
	limit := r.CARSize + r.CARSize/4 + slack
	n, err := io.Copy(into, io.LimitReader(punctual{response.Body, watch}, limit+1))
	if err != nil {
		return because(ctx, err)
	}
	if n > limit {
		return fmt.Errorf("it sends more than %d bytes for a CAR of %d", limit, r.CARSize)
	}
	return nil
}

// because is why a request ended: the reason for which its context did, if it did.
func because(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// punctual puts a deadline off with every byte.
type punctual struct {
	r     io.Reader
	watch *time.Timer
}

func (p punctual) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	if n > 0 {
		p.watch.Reset(stall)
	}
	return n, err
}
