package retrieval

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/ipfs/go-cid"
)

// run walks the DAG over what is here, and asks for a CAR at each place where something is missing. It ends when the
// walk has met every block.
func (j *job) run(ctx context.Context) error {
	rest := newTodo(j.s.parts.Codec, j.budget.Blocks, step{j.top, 0})
	for next, more := rest.pop(); more; next, more = rest.pop() {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		data, inline := j.s.parts.Codec.Inline(next.cid)
		if !inline {
			if _, met := j.whole[next.cid.KeyString()]; met {
				continue
			}
			var err error
			var below bool
			if data, below, err = j.visit(ctx, next, rest); err != nil {
				return err
			}
			j.whole[next.cid.KeyString()] = struct{}{}
			if below {
				continue // a CAR has brought everything below it
			}
		}
		links, err := j.s.parts.Codec.Links(next.cid, data)
		if err != nil {
			return &RefusedError{Reason: err.Error()}
		}
		if err := rest.push(links, next.depth+1); err != nil {
			return err
		}
	}
	return nil
}

// visit returns the block of a step, from here or from afar, or tells that all below it has come too.
func (j *job) visit(ctx context.Context, at step, rest *todo) (data []byte, below bool, err error) {
	key := at.cid.KeyString()
	for {
		if g, ok := j.unstored(key); ok {
			return g.data, false, j.meet(at, g, false)
		}
		data, err = j.s.stored(ctx, at.cid)
		if err == nil {
			return data, false, j.meet(at, got{data, TierHot}, false)
		}
		if !errors.Is(err, ErrAbsent) && !errors.Is(err, ErrCorrupt) {
			return nil, false, fmt.Errorf("reading what is here of %s: %w", j.top, err)
		}
		if err := j.s.parts.Codec.Admit(at.cid); err != nil {
			return nil, false, &RefusedError{Reason: err.Error()}
		}
		if at.cid.Type() == cid.Raw && !at.cid.Equals(j.top) {
			data, again, err := j.leaves(ctx, at, rest)
			if again {
				continue // who was slow has brought it
			}
			if again, pieceErr := j.byPiece(ctx, err); again || pieceErr != nil {
				if pieceErr != nil {
					return nil, false, pieceErr
				}
				continue
			}
			return data, false, err
		}
		next, err := j.lanesTo(ctx, at)
		if err != nil {
			return nil, false, err
		}
		whole, again, err := j.race(ctx, at, next, nil)
		switch {
		case err != nil:
			return nil, false, err
		case whole:
			return nil, true, nil
		case again:
			continue // what has come of it is here now
		}
		data, err = j.single(ctx, at)
		if again, pieceErr := j.byPiece(ctx, err); again || pieceErr != nil {
			if pieceErr != nil {
				return nil, false, pieceErr
			}
			continue
		}
		return data, false, err
	}
}

// byPiece is the last resort for a block in the middle of the DAG that nobody gives by itself, because of err: the bytes
// of the whole DAG in the piece, also where most of it is here. again: something has come of them, so look once more.
func (j *job) byPiece(ctx context.Context, err error) (again bool, _ error) {
	var failed *FailedError
	if !errors.As(err, &failed) || ctx.Err() != nil || !j.top.Equals(j.root) {
		return false, nil //nolint:nilerr // the caller has err and returns it
	}
	sources, err := j.s.holders(ctx, j.root)
	if err != nil {
		return false, fmt.Errorf("looking for copies of %s: %w", j.root, err)
	}
	whole, again, err := j.race(ctx, step{j.root, 0}, j.piecesOf(sources), nil)
	return whole || again, err
}

func (j *job) unstored(key string) (got, bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	g, ok := j.pending[key]
	return g, ok
}

// single fetches one block by itself.
func (j *job) single(ctx context.Context, at step) ([]byte, error) {
	g, err := j.s.fetchAlone(ctx, j.root, at.cid, nil)
	if err != nil {
		return nil, err
	}
	return g.data, j.arrive(ctx, at, g.data, g.provider)
}

// leaves fetches a leaf together with those missing ones that come next: a CAR of one block each would cost as many
// round trips as there are. again: a lane that was slow has brought something meanwhile.
func (j *job) leaves(ctx context.Context, at step, rest *todo) (data []byte, again bool, err error) {
	list, err := j.missing(ctx, at, rest)
	if err != nil {
		return nil, false, err
	}
	var slow []string
	for _, l := range j.flying {
		slow = append(slow, l.from.Provider) // it is asked already
	}
	results, failures := make([]got, len(list)), make([]error, len(list))
	fetching, stop := context.WithCancel(ctx)
	fetched := make(chan struct{})
	defer func() {
		stop()
		<-fetched
	}()
	go func() {
		defer close(fetched)
		var group sync.WaitGroup
		for i, leaf := range list {
			group.Go(func() {
				failures[i] = safely(func() (err error) {
					results[i], err = j.s.fetchAlone(fetching, j.root, leaf.cid, slow)
					return err
				})
			})
		}
		group.Wait()
	}()
	if _, again, err := j.race(ctx, at, nil, fetched); again || err != nil {
		return nil, again, err
	}
	for i, leaf := range list {
		if failures[i] != nil {
			continue // its own turn comes; what has come of the others stays
		}
		if err := j.arrive(ctx, leaf, results[i].data, results[i].provider); err != nil {
			return nil, false, err
		}
	}
	if failures[0] == nil {
		j.callBack(nil)
		return results[0].data, false, nil
	}
	if _, again, err := j.race(ctx, at, nil, nil); again || err != nil {
		return nil, again, err // nobody else has it, and who was slow does
	}
	return nil, false, failures[0]
}

// missing lists a leaf and those after it that are not here, as far as they are fetched together. Those that are here
// have been visited by that: between two that are not there may be a hundred thousand.
func (j *job) missing(ctx context.Context, at step, rest *todo) ([]step, error) {
	list := []step{at}
	for p := rest.top; p != nil && len(list) < rawAtOnce && p.cid.Type() == cid.Raw; p = p.below {
		key := p.cid.KeyString()
		if _, met := j.whole[key]; met || j.s.parts.Codec.Admit(p.cid) != nil {
			continue
		}
		if _, here := j.unstored(key); here {
			continue
		}
		data, err := j.s.stored(ctx, p.cid)
		if err != nil {
			list = append(list, p.step)
			continue
		}
		if err := j.meet(p.step, got{data, TierHot}, false); err != nil {
			return nil, err
		}
		j.whole[key] = struct{}{}
	}
	return list, nil
}
