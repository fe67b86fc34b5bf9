package ingest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/hot/hold"
	"github.com/frostpin/frostpin/spec"
)

// A Tier is what an upload needs of the hot tier.
type Tier interface {
	Import(ctx context.Context) (pins.Import, error)
	Hold(ctx context.Context, root cid.Cid, lim pins.Limits, p *pins.Progress) error
	Block(ctx context.Context, c cid.Cid) ([]byte, error)
}

// Pins records what was uploaded; pins.Service is one. AddUploaded and Uploaded are called between BeginUpload, once
// that has returned true, and EndUpload, where there is a key.
type Pins interface {
	Decide(ctx context.Context, c pins.Choice, meta map[string]string) (pins.Decision, error)
	Refuse(root cid.Cid) error
	BeginUpload(ctx context.Context, account pins.Account, key string) (claimed bool, err error)
	EndUpload(ctx context.Context, account pins.Account, key string)
	AddUploaded(ctx context.Context, account pins.Account, r spec.Request, decided pins.Decision, u pins.Upload) (pins.Pin, error)
	Uploaded(ctx context.Context, account pins.Account, key string) (made []pins.Pin, of int, err error)
	BeginHold(ctx context.Context, roots []cid.Cid) (id string, err error)
	EndHold(id string)
	Leftovers()
}

// A Format says what the bytes of an upload are.
type Format int

// Formats.
const (
	File Format = iota // one file
	CAR                // version 1 or 2
	Tar
	Multipart // multipart/form-data
)

// An Upload is one request.
type Upload struct {
	Account  pins.Account
	Choice   pins.Choice
	Key      string // repeating it within a day makes no other pins; empty: every upload makes its own
	Name     *string
	Meta     map[string]string
	Format   Format
	Boundary string    // of Multipart
	Body     io.Reader // its errors are returned as they are

	// Admit tells whether the account may have pins of these DAGs; nil: always. A body does not tell how large they are:
	// of what is here already it brings nothing. Its errors are returned as they are, and no pin is made then.
	Admit func(dags []pins.Sized) error
}

// A LargeError says which limit an upload breaks, in words for the user.
type LargeError struct{ Problem string }

func (e *LargeError) Error() string { return e.Problem }

// MaxRoots is the most roots that one CAR may have.
const MaxRoots = 100

// A Service makes pins of uploads. Its methods may be called concurrently.
type Service struct {
	tier   Tier
	pins   Pins
	limits pins.Limits

	mu   sync.Mutex
	keys map[keyed]chan struct{} // uploads at work that have a key; closed when they end
}

type keyed struct {
	account pins.Account
	key     string
}

// New returns a Service that keeps every upload, and every DAG, below limits.
func New(tier Tier, p Pins, limits pins.Limits) *Service {
	limits.Offline, limits.Idle, limits.Stall = true, 0, 0
	return &Service{tier: tier, pins: p, limits: limits, keys: make(map[keyed]chan struct{})}
}

// Upload reads an upload to its end and returns its pins, one for each root. fresh is false when they were made before,
// by an upload with the same key; the body may not have been read then. Errors: *spec.InvalidError, *LargeError, those
// of the body, of Admit, of the tier (pins.ErrUnavailable) and of Pins (pins.ErrOvertaken, pins.ErrBlocked).
func (s *Service) Upload(ctx context.Context, u Upload) (made []pins.Pin, fresh bool, err error) {
	// What is wrong with the rest of the request is told before a byte is read.
	if _, err := u.request("bafkqaaa"); err != nil {
		return nil, false, err
	}
	decided, err := s.pins.Decide(ctx, u.Choice, u.Meta)
	if err != nil {
		return nil, false, err
	}
	ctx = pins.OnBehalf(ctx, u.Account)
	unlock, err := s.lock(ctx, keyed{u.Account, u.Key})
	if err != nil {
		return nil, false, err
	}
	defer unlock()
	before := map[cid.Cid]pins.Pin{}
	if u.Key != "" {
		list, of, err := s.pins.Uploaded(ctx, u.Account, u.Key)
		if err != nil {
			return nil, false, err
		}
		if len(list) > 0 && len(list) == of {
			return list, false, nil
		}
		for _, p := range list {
			before[p.Root] = p
		}
	}

	in, err := s.tier.Import(ctx)
	if err != nil {
		return nil, false, err
	}
	sh := newShelf(s.tier, in, s.limits)
	defer func() {
		_ = in.Close() // it only forgets what to keep
		if sh.stored() && (err != nil || u.Format == CAR) {
			s.pins.Leftovers() // a CAR may have blocks that no root of it needs
		}
	}()
	roots, err := s.read(ctx, u, sh)
	if err != nil {
		return nil, false, translate(err)
	}
	for _, root := range roots {
		if err := s.pins.Refuse(root); err != nil {
			return nil, false, err // before any is held, so that nothing stays without a pin
		}
	}
	held, err := s.pins.BeginHold(ctx, roots)
	if err != nil {
		return nil, false, err
	}
	defer s.pins.EndHold(held)
	var asked []pins.Sized // those that get a pin now
	sizes := make([]pins.Extent, len(roots))
	for i, root := range roots {
		size, err := s.hold(ctx, root, in)
		if err != nil {
			return nil, false, translate(err)
		}
		sizes[i] = size
		if _, again := before[spec.Canonical(root)]; !again {
			asked = append(asked, pins.Sized{Root: root, Extent: size})
		}
	}
	if u.Admit != nil && len(asked) > 0 {
		if err := u.Admit(asked); err != nil {
			return nil, false, err
		}
	}
	for i, root := range roots {
		p, again := before[spec.Canonical(root)]
		if !again {
			r, err := u.request(root.String())
			if err != nil {
				return nil, false, err
			}
			if p, err = s.pins.AddUploaded(ctx, u.Account, r, decided, pins.Upload{Key: u.Key, Of: len(roots), Hold: held, Size: sizes[i]}); err != nil {
				return nil, false, err
			}
		}
		made = append(made, p)
	}
	return made, true, nil
}

// request is what a client would have posted for this root, with the same checks.
func (u Upload) request(root string) (spec.Request, error) {
	body, err := json.Marshal(struct {
		CID  string            `json:"cid"`
		Name *string           `json:"name,omitempty"`
		Meta map[string]string `json:"meta,omitempty"`
	}{root, u.Name, u.Meta})
	if err != nil {
		return spec.Request{}, fmt.Errorf("writing a request: %w", err)
	}
	return spec.DecodePin(body)
}

func (s *Service) read(ctx context.Context, u Upload, sh *shelf) ([]cid.Cid, error) {
	if u.Format == CAR {
		return readCAR(ctx, u.Body, sh)
	}
	t, err := newTree(ctx, sh)
	if err != nil {
		return nil, err
	}
	defer t.close()
	var root cid.Cid
	body := &bounded{r: u.Body, left: s.limits.Bytes, lim: s.limits.Bytes}
	switch u.Format {
	case Tar:
		root, err = t.readTar(body)
	case Multipart:
		root, err = t.readForm(body, u.Boundary)
	default:
		root, err = t.readFile(body)
	}
	if err == nil {
		err = sh.flush(ctx)
	}
	return []cid.Cid{root}, err
}

// hold holds a DAG whose blocks must all be here, and returns how large it is. A block that came with the upload and has
// gone is no fault of its client: another server may have collected on the same tier meanwhile.
func (s *Service) hold(ctx context.Context, root cid.Cid, in pins.Import) (size pins.Extent, err error) {
	if size, err = s.tryHold(ctx, root); !errors.Is(err, pins.ErrAbsent) {
		return size, err
	}
	_, walked := hold.Walk{Root: root, Limits: s.limits, Workers: 1, Get: func(ctx context.Context, c cid.Cid) (hold.Block, error) {
		data, err := s.tier.Block(ctx, c)
		if errors.Is(err, pins.ErrAbsent) && in.Stored(c) {
			return hold.Block{}, gone(c)
		}
		if errors.Is(err, pins.ErrAbsent) {
			return hold.Block{}, invalid(fmt.Sprintf("is not the whole DAG below %s: block %s is missing", root, c))
		}
		return hold.Block{Size: len(data), Data: data}, err
	}}.Run(ctx)
	if walked == nil { // it has come meanwhile
		return s.tryHold(ctx, root)
	}
	return pins.Extent{}, walked
}

func (s *Service) tryHold(ctx context.Context, root cid.Cid) (size pins.Extent, err error) {
	var p pins.Progress
	err = s.tier.Hold(ctx, root, s.limits, &p)
	size.Blocks, size.Bytes = p.Totals()
	if s.limits.Bytes > 0 && size.Bytes > s.limits.Bytes {
		return pins.Extent{}, tooMany(s.limits.Bytes)
	}
	return size, err
}

// lock waits until no other upload with this key is at work, here or in another process.
func (s *Service) lock(ctx context.Context, k keyed) (unlock func(), err error) {
	if k.key == "" {
		return func() {}, nil
	}
	here, err := s.lockHere(ctx, k)
	if err != nil {
		return nil, err
	}
	for {
		claimed, err := s.pins.BeginUpload(ctx, k.account, k.key)
		if err == nil && claimed {
			return func() { s.pins.EndUpload(ctx, k.account, k.key); here() }, nil
		}
		if err == nil {
			err = wait(ctx, nextLook)
		}
		if err != nil {
			s.pins.EndUpload(ctx, k.account, k.key) // an error does not say that it was not claimed
			here()
			return nil, err
		}
	}
}

// nextLook is the time between two looks whether another process has ended an upload.
const nextLook = 500 * time.Millisecond

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// lockHere waits until no other upload with this key is at work in this process.
func (s *Service) lockHere(ctx context.Context, k keyed) (unlock func(), err error) {
	for {
		s.mu.Lock()
		other := s.keys[k]
		if other == nil {
			mine := make(chan struct{})
			s.keys[k] = mine
			s.mu.Unlock()
			return func() {
				s.mu.Lock()
				defer s.mu.Unlock()
				delete(s.keys, k)
				close(mine)
			}, nil
		}
		s.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// gone is the error for a block that this upload has stored and that is not here: sent again, it may stay.
func gone(c cid.Cid) error {
	return fmt.Errorf("%w: block %s has gone while its upload was at work", pins.ErrUnavailable, c)
}

func invalid(problem string) error { return &spec.InvalidError{Field: "body", Problem: problem} }

// translate tells the user what a tier can never hold.
func translate(err error) error {
	if refused := (*pins.Refused)(nil); errors.As(err, &refused) {
		return invalid("cannot be pinned: " + refused.Reason)
	}
	return err
}
