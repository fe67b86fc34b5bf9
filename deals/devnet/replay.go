package devnet

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/filecoin-project/go-address"
	"github.com/filecoin-project/lotus/chain/types"
	"github.com/filecoin-project/lotus/chain/wallet/key"
	"github.com/ipfs/go-cid"
)

// addressText is an address that JSON keeps as text.
type addressText struct{ address.Address }

// replay rebuilds the chain from the journal. It returns false for a journal without a chain.
func (n *Net) replay(ctx context.Context) (found bool, err error) {
	p := replaying{n: n}
	if err := n.journal.read(p.visit); err != nil {
		return false, err
	}
	if n.head == nil {
		return false, n.journal.reset()
	}
	// What waited when the process ended waits on: every message that is neither included nor dropped.
	for _, s := range n.pool.byCID {
		if !s.included && s.executed == nil && !p.dropped[s.cid] {
			n.pool.queue(s)
		}
	}
	n.liveBytes = n.objects.size
	return true, ctx.Err()
}

// replaying applies the records of a journal in order.
type replaying struct {
	n       *Net
	genesis cid.Cid
	dropped map[cid.Cid]bool
	pending []object // of the record to come
}

func (p *replaying) visit(k kind, payload []byte) error {
	into := func(v any) error {
		if err := json.Unmarshal(payload, v); err != nil {
			return fmt.Errorf("decoding a record %q: %w", k, err)
		}
		return nil
	}
	if k != kindObject {
		p.n.objects.put(p.pending)
		p.pending = nil
	}
	switch k {
	case kindSetup:
		var s setup
		if err := into(&s); err != nil {
			return err
		}
		return p.setup(s)
	case kindKey:
		var info types.KeyInfo
		if err := into(&info); err != nil {
			return err
		}
		loaded, err := key.NewKey(info)
		if err != nil {
			return fmt.Errorf("loading a key: %w", err)
		}
		p.n.wallet.add(loaded)
		return nil
	case kindMessage:
		var rec sentRecord
		if err := into(&rec); err != nil {
			return err
		}
		return p.message(rec)
	case kindFate:
		var rec fateRecord
		if err := into(&rec); err != nil {
			return err
		}
		p.n.chronicle.add(rec.Height, []change{rec.Change})
		return nil
	case kindObject:
		n, c, err := cid.CidFromBytes(payload)
		if err != nil {
			return fmt.Errorf("decoding an object: %w", err)
		}
		p.pending = append(p.pending, object{c, payload[n:]})
		return nil
	case kindEdge, kindTipset:
		var rec tipsetRecord
		if err := into(&rec); err != nil {
			return err
		}
		return p.tipset(rec, k == kindEdge)
	case kindReorg:
		var rec reorgRecord
		if err := into(&rec); err != nil {
			return err
		}
		return p.reorg(rec)
	case kindState:
		var rec stateRecord
		if err := into(&rec); err != nil {
			return err
		}
		e, ok := p.n.tipsets[types.NewTipSetKey(rec.Block)]
		if !ok {
			return fmt.Errorf("block %s is missing", rec.Block)
		}
		e.post.root = rec.Root
		return nil
	}
	return fmt.Errorf("unknown record %q", k)
}

func (p *replaying) setup(s setup) error {
	if s.Network != p.n.cfg.Network {
		return fmt.Errorf("the chain is of network %q, not %q", s.Network, p.n.cfg.Network)
	}
	p.dropped = map[cid.Cid]bool{}
	p.genesis = s.Genesis
	p.n.secret, p.n.client, p.n.miners = s.Secret, s.Client.Address, s.Miners
	return nil
}

func (p *replaying) message(rec sentRecord) error {
	signed, err := types.DecodeSignedMessage(rec.Signed)
	if err != nil {
		return fmt.Errorf("decoding a message: %w", err)
	}
	s := &sentMessage{signed: signed, cid: signed.Cid(), uuid: rec.UUID, earliest: rec.Earliest}
	if x := rec.Executed; x != nil {
		s.executed = &lookup{receipt: x.Receipt, key: x.Key, height: x.Height}
	}
	if rec.Dropped {
		p.dropped[s.cid] = true
	}
	p.n.pool.know(s)
	return nil
}

func (p *replaying) tipset(rec tipsetRecord, edge bool) error {
	n := p.n
	ts, err := n.loadTipSet(rec.Block)
	if err != nil {
		return err
	}
	e := &entry{ts: ts, post: execution{root: rec.Root, receipts: rec.Receipts, changes: rec.Changes}}
	for i, c := range rec.Sent {
		s, ok := n.pool.byCID[c]
		if !ok {
			return fmt.Errorf("message %s of tipset %d is missing", c, ts.Height())
		}
		s.included = true
		e.sent = append(e.sent, s)
		e.post.outcomes = append(e.post.outcomes, outcome{receipt: rec.Outcomes[i].Receipt, events: rec.Outcomes[i].Events})
	}
	n.seq = rec.Seq
	if edge {
		if n.genesis, err = n.loadTipSet(p.genesis); err != nil {
			return err
		}
		n.start(e)
		return nil
	}
	parent, ok := n.tipsets[ts.Parents()]
	if !ok {
		return fmt.Errorf("parent of tipset %d is missing", ts.Height())
	}
	e.parent = parent
	n.extend(e)
	return nil
}

func (n *Net) loadTipSet(block cid.Cid) (*types.TipSet, error) {
	raw, ok := n.objects.get(block)
	if !ok {
		return nil, fmt.Errorf("block %s is missing", block)
	}
	header, err := types.DecodeBlock(raw)
	if err != nil {
		return nil, fmt.Errorf("decoding block %s: %w", block, err)
	}
	return types.NewTipSet([]*types.BlockHeader{header})
}

func (p *replaying) reorg(rec reorgRecord) error {
	n := p.n
	fork, ok := n.tipsets[types.NewTipSetKey(rec.Fork)]
	if !ok {
		return fmt.Errorf("fork at block %s is missing", rec.Fork)
	}
	if rec.Drop {
		for e := n.head; e != fork; e = e.parent {
			for _, s := range e.sent {
				p.dropped[s.cid] = true
			}
		}
	}
	n.rewind(fork, rec.Hold, true) // what waits is queued when all records are read
	if !rec.Drop {
		for _, s := range n.pool.byCID {
			if !s.included && s.executed == nil {
				s.earliest = max(s.earliest, rec.Hold)
			}
		}
	}
	return nil
}

// reset empties a journal that holds no chain.
func (j *journal) reset() error {
	if err := j.file.Truncate(0); err != nil {
		return err
	}
	j.size = 0
	_, err := j.file.Seek(0, 0)
	return err
}

// compact replaces the journal by one that holds what is still of use. The caller holds n.mu.
func (j *journal) compact(n *Net, kept []object) error {
	if j == nil {
		return nil
	}
	next := &journal{path: j.path + ".new"}
	var err error
	if next.file, err = os.OpenFile(next.path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600); err != nil {
		return fmt.Errorf("rewriting the journal: %w", err)
	}
	if err := next.fill(n, kept); err != nil {
		_ = next.file.Close()
		return fmt.Errorf("rewriting the journal: %w", err)
	}
	if err := os.Rename(next.path, j.path); err != nil {
		_ = next.file.Close()
		return fmt.Errorf("rewriting the journal: %w", err)
	}
	_ = j.file.Close() // replaced; its content is in the new one
	j.file, j.size = next.file, next.size
	return syncDir(filepath.Dir(j.path))
}

func (j *journal) fill(n *Net, kept []object) error {
	var r records
	n.preamble(&r, n.genesis.Cids()[0])
	edge := n.canon[0]
	waiting := map[cid.Cid]bool{}
	for _, list := range n.pool.waiting {
		for _, s := range list {
			waiting[s.cid] = true
		}
	}
	for _, s := range n.pool.byCID {
		rec, err := s.record()
		if err != nil {
			return err
		}
		if x := s.executed; x != nil && x.height <= edge.height() {
			rec.Executed = &lookupRecord{x.receipt, x.key, x.height}
		}
		rec.Dropped = !s.included && !waiting[s.cid] && s.executed == nil
		r.json(kindMessage, rec)
	}
	for _, e := range n.chronicle.entries {
		if e.height <= edge.height() {
			r.json(kindFate, fateRecord{e.height, e.change})
		}
	}
	if err := j.write(&r, false); err != nil {
		return err
	}
	const run = 1 << 10
	for start := 0; start < len(kept); start += run {
		var r records
		r.objects(kept[start:min(start+run, len(kept))])
		if err := j.write(&r, false); err != nil {
			return err
		}
	}
	var tail records
	for i, e := range n.canon {
		k := kindTipset
		if i == 0 {
			k = kindEdge
		}
		tail.json(k, recordOf(e, n.seq))
	}
	return j.write(&tail, true)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	return d.Sync()
}
