package devnet

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"

	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/lotus/chain/types"
	"github.com/google/uuid"
	"github.com/ipfs/go-cid"
)

// journal is the chain on disk: one file of records, appended as things happen and rewritten when most of it is
// garbage. A record is its length and checksum (4 bytes each, little endian), a kind and a payload. A torn record at
// the end is what a killed process leaves; it and what follows is cut off.
//
// What has been acknowledged to a caller (keys, messages, a new fork) is synced before the answer. Tipsets reach the
// disk in one write each and are synced when something happened in them: a killed process loses none, a machine that
// loses power loses at most empty rounds, which nobody can tell from null ones.
type journal struct {
	path string
	file *os.File
	size int64
}

type kind byte

const (
	kindSetup   kind = 's' // setup as JSON; first record of the file
	kindKey     kind = 'k' // types.KeyInfo as JSON
	kindMessage kind = 'm' // sentRecord as JSON
	kindFate    kind = 'f' // fateRecord as JSON: a change older than the tipsets that are kept
	kindObject  kind = 'o' // CID and bytes of an object
	kindEdge    kind = 'e' // tipsetRecord as JSON: the oldest tipset that is kept
	kindTipset  kind = 't' // tipsetRecord as JSON: on top of its parent
	kindReorg   kind = 'r' // reorgRecord as JSON
	kindState   kind = 'x' // stateRecord as JSON: a tipset leaves another state than was written with it (Seed)
)

type setup struct {
	Network string
	Secret  []byte
	Client  addressText
	Miners  []Miner
	Genesis cid.Cid // its block
}

type sentRecord struct {
	Signed   []byte // CBOR
	UUID     uuid.UUID
	Earliest abi.ChainEpoch
	Executed *lookupRecord `json:",omitempty"`
	Dropped  bool          `json:",omitempty"` // neither waiting nor included
}

type lookupRecord struct {
	Receipt types.MessageReceipt
	Key     types.TipSetKey
	Height  abi.ChainEpoch
}

type fateRecord struct {
	Height abi.ChainEpoch
	Change change
}

type tipsetRecord struct {
	Block    cid.Cid
	Sent     []cid.Cid `json:",omitempty"`
	Root     cid.Cid
	Receipts cid.Cid
	Outcomes []outcomeRecord `json:",omitempty"`
	Changes  []change        `json:",omitempty"`
	Seq      uint64
}

type outcomeRecord struct {
	Receipt types.MessageReceipt
	Events  []types.Event `json:",omitempty"`
}

type reorgRecord struct {
	Fork cid.Cid // block of the new head
	Hold abi.ChainEpoch
	Drop bool
}

type stateRecord struct {
	Block cid.Cid
	Root  cid.Cid
}

const maxRecord = 64 << 20

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func openJournal(dir string) (*journal, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "chain.journal")
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	return &journal{path: path, file: file}, nil
}

func (j *journal) close() error {
	if j == nil || j.file == nil {
		return nil
	}
	err := errors.Join(j.file.Sync(), j.file.Close())
	j.file = nil
	return err
}

// read hands every whole record to visit and leaves the file positioned behind the last of them. Objects belong to the
// record that follows them: where that was not written, they are cut off too. Were they kept, a state reached again
// would count as complete although the rest of it was lost.
func (j *journal) read(visit func(kind, []byte) error) error {
	in := bufio.NewReaderSize(j.file, 1<<20)
	for at := int64(0); ; {
		k, payload, err := readRecord(in)
		if err != nil {
			break // the end, or what a killed process left of it
		}
		if err := visit(k, payload); err != nil {
			return err
		}
		at += int64(recordOverhead + len(payload))
		if k != kindObject {
			j.size = at
		}
	}
	if err := j.file.Truncate(j.size); err != nil {
		return fmt.Errorf("cutting off a torn record: %w", err)
	}
	_, err := j.file.Seek(j.size, io.SeekStart)
	return err
}

const recordOverhead = 4 + 4 + 1

func readRecord(in io.Reader) (kind, []byte, error) {
	var head [8]byte
	if _, err := io.ReadFull(in, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.LittleEndian.Uint32(head[:4])
	if n == 0 || n > maxRecord {
		return 0, nil, errors.New("impossible length of a record")
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(in, body); err != nil {
		return 0, nil, err
	}
	if crc32.Checksum(body, castagnoli) != binary.LittleEndian.Uint32(head[4:]) {
		return 0, nil, errors.New("wrong checksum of a record")
	}
	return kind(body[0]), body[1:], nil
}

// records is a run of records that goes to disk in one write.
type records struct {
	buf bytes.Buffer
	err error
}

func (r *records) add(k kind, payload []byte) {
	body := append([]byte{byte(k)}, payload...)
	var head [8]byte
	binary.LittleEndian.PutUint32(head[:4], uint32(len(body)))
	binary.LittleEndian.PutUint32(head[4:], crc32.Checksum(body, castagnoli))
	r.buf.Write(head[:])
	r.buf.Write(body)
}

func (r *records) json(k kind, v any) {
	payload, err := json.Marshal(v)
	if err != nil {
		r.err = errors.Join(r.err, fmt.Errorf("encoding a record %q: %w", k, err))
		return
	}
	r.add(k, payload)
}

func (r *records) objects(objs []object) {
	for _, o := range objs {
		r.add(kindObject, append(o.cid.Bytes(), o.data...))
	}
}

func (j *journal) write(r *records, sync bool) error {
	if r.err != nil {
		return r.err
	}
	n, err := j.file.Write(r.buf.Bytes())
	if err == nil && sync {
		err = j.file.Sync()
	}
	if err != nil {
		return fmt.Errorf("writing the journal: %w", err)
	}
	j.size += int64(n)
	return nil
}

func (j *journal) begin(n *Net, first *entry, fresh []object) error {
	if j == nil {
		return nil
	}
	var r records
	n.preamble(&r, first.ts.Cids()[0])
	r.objects(fresh)
	r.json(kindEdge, recordOf(first, n.seq))
	return j.write(&r, true)
}

func (n *Net) preamble(r *records, genesis cid.Cid) {
	r.json(kindSetup, setup{Network: n.cfg.Network, Secret: n.secret, Client: addressText{n.client}, Miners: n.miners, Genesis: genesis})
	n.wallet.each(func(k types.KeyInfo) { r.json(kindKey, k) })
}

func recordOf(e *entry, seq uint64) tipsetRecord {
	t := tipsetRecord{Block: e.ts.Cids()[0], Root: e.post.root, Receipts: e.post.receipts, Changes: e.post.changes, Seq: seq}
	for i, s := range e.sent {
		t.Sent = append(t.Sent, s.cid)
		t.Outcomes = append(t.Outcomes, outcomeRecord{e.post.outcomes[i].receipt, e.post.outcomes[i].events})
	}
	return t
}

func (j *journal) tipset(e *entry, seq uint64, fresh []object) error {
	if j == nil {
		return nil
	}
	var r records
	r.objects(fresh)
	r.json(kindTipset, recordOf(e, seq))
	return j.write(&r, len(e.sent)+len(e.post.changes) > 0)
}

func (j *journal) message(s *sentMessage) error {
	if j == nil {
		return nil
	}
	var r records
	rec, err := s.record()
	if err != nil {
		return err
	}
	r.json(kindMessage, rec)
	return j.write(&r, true)
}

func (s *sentMessage) record() (sentRecord, error) {
	raw, err := s.signed.Serialize()
	return sentRecord{Signed: raw, UUID: s.uuid, Earliest: s.earliest}, err
}

func (j *journal) key(k types.KeyInfo) error {
	if j == nil {
		return nil
	}
	var r records
	r.json(kindKey, k)
	return j.write(&r, true)
}

func (j *journal) reorg(fork *entry, hold abi.ChainEpoch, drop bool) error {
	if j == nil {
		return nil
	}
	var r records
	r.json(kindReorg, reorgRecord{fork.ts.Cids()[0], hold, drop})
	return j.write(&r, true)
}

func (j *journal) state(e *entry, root cid.Cid, fresh []object) error {
	if j == nil {
		return nil
	}
	var r records
	r.objects(fresh)
	r.json(kindState, stateRecord{e.ts.Cids()[0], root})
	return j.write(&r, true)
}
