package e2e_test

import (
	"context"

	boxo "github.com/ipfs/boxo/pinning/remote/client"
	"github.com/ipfs/go-cid"
	classic "github.com/ipfs/go-pinning-service-http-client"
)

// The two libraries have the same methods on types of their own, so there are two adapters that read alike.

type boxoClient struct{ *boxo.Client }

func boxoPin(p boxo.PinStatusGetter, err error) (goPin, error) {
	if err != nil {
		return goPin{}, err
	}
	return goPin{p.GetRequestId(), string(p.GetStatus()), p.GetPin().GetCid().String(), p.GetPin().GetName(), p.GetCreated()}, nil
}

func boxoPins(rows []boxo.PinStatusGetter) (pins []goPin) {
	for _, row := range rows {
		p, _ := boxoPin(row, nil)
		pins = append(pins, p)
	}
	return pins
}

func boxoOptions(f goFilter) (opts []boxo.LsOption) {
	if len(f.cids) > 0 {
		opts = append(opts, boxo.PinOpts.FilterCIDs(f.cids...))
	}
	if f.name != "" {
		opts = append(opts, boxo.PinOpts.FilterName(f.name))
	}
	for _, s := range f.statuses {
		opts = append(opts, boxo.PinOpts.FilterStatus(boxo.Status(s)))
	}
	if !f.before.IsZero() {
		opts = append(opts, boxo.PinOpts.FilterBefore(f.before))
	}
	if f.limit > 0 {
		opts = append(opts, boxo.PinOpts.Limit(f.limit))
	}
	return opts
}

func (c boxoClient) add(ctx context.Context, root cid.Cid, name string) (goPin, error) {
	return boxoPin(c.Add(ctx, root, boxo.PinOpts.WithName(name)))
}

func (c boxoClient) replace(ctx context.Context, id string, root cid.Cid, name string) (goPin, error) {
	return boxoPin(c.Replace(ctx, id, root, boxo.PinOpts.WithName(name)))
}

func (c boxoClient) get(ctx context.Context, id string) (goPin, error) {
	return boxoPin(c.GetStatusByID(ctx, id))
}

func (c boxoClient) remove(ctx context.Context, id string) error { return c.DeleteByID(ctx, id) }

func (c boxoClient) list(ctx context.Context, f goFilter) ([]goPin, error) {
	rows, err := c.LsSync(ctx, boxoOptions(f)...)
	return boxoPins(rows), err
}

func (c boxoClient) page(ctx context.Context, f goFilter) ([]goPin, int, error) {
	rows, n, err := c.LsBatchSync(ctx, boxoOptions(f)...)
	return boxoPins(rows), n, err
}

type classicClient struct{ *classic.Client }

func classicPin(p classic.PinStatusGetter, err error) (goPin, error) {
	if err != nil {
		return goPin{}, err
	}
	return goPin{p.GetRequestId(), string(p.GetStatus()), p.GetPin().GetCid().String(), p.GetPin().GetName(), p.GetCreated()}, nil
}

func classicPins(rows []classic.PinStatusGetter) (pins []goPin) {
	for _, row := range rows {
		p, _ := classicPin(row, nil)
		pins = append(pins, p)
	}
	return pins
}

func classicOptions(f goFilter) (opts []classic.LsOption) {
	if len(f.cids) > 0 {
		opts = append(opts, classic.PinOpts.FilterCIDs(f.cids...))
	}
	if f.name != "" {
		opts = append(opts, classic.PinOpts.FilterName(f.name))
	}
	for _, s := range f.statuses {
		opts = append(opts, classic.PinOpts.FilterStatus(classic.Status(s)))
	}
	if !f.before.IsZero() {
		opts = append(opts, classic.PinOpts.FilterBefore(f.before))
	}
	if f.limit > 0 {
		opts = append(opts, classic.PinOpts.Limit(f.limit))
	}
	return opts
}

func (c classicClient) add(ctx context.Context, root cid.Cid, name string) (goPin, error) {
	return classicPin(c.Add(ctx, root, classic.PinOpts.WithName(name)))
}

func (c classicClient) replace(ctx context.Context, id string, root cid.Cid, name string) (goPin, error) {
	return classicPin(c.Replace(ctx, id, root, classic.PinOpts.WithName(name)))
}

func (c classicClient) get(ctx context.Context, id string) (goPin, error) {
	return classicPin(c.GetStatusByID(ctx, id))
}

func (c classicClient) remove(ctx context.Context, id string) error { return c.DeleteByID(ctx, id) }

func (c classicClient) list(ctx context.Context, f goFilter) ([]goPin, error) {
	rows, err := c.LsSync(ctx, classicOptions(f)...)
	return classicPins(rows), err
}

func (c classicClient) page(ctx context.Context, f goFilter) ([]goPin, int, error) {
	rows, n, err := c.LsBatchSync(ctx, classicOptions(f)...)
	return classicPins(rows), n, err
}
