package receipt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/filecoin-project/go-address"
	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/builtin/v9/market"
	"github.com/filecoin-project/go-state-types/crypto"
	"github.com/filecoin-project/lotus/lib/sigs"
	_ "github.com/filecoin-project/lotus/lib/sigs/delegated" // registers itself
	_ "github.com/filecoin-project/lotus/lib/sigs/secp"      // registers itself
	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/deals"
	"github.com/frostpin/frostpin/deals/piece"
)

// A Verdict says how much is known of a matter. The zero value is invalid.
type Verdict string

const (
	Proved Verdict = "proved" // looked at, and as the receipt says
	Open   Verdict = "open"   // not looked at
	Wrong  Verdict = "wrong"  // looked at, and not as the receipt says
)

// A Finding is one thing that was looked at, or was not.
type Finding struct {
	Verdict Verdict `json:"verdict"`
	What    string  `json:"what"`
	Detail  string  `json:"detail"`
}

// A Report is what is known of a receipt.
type Report struct {
	Receipt  deals.Receipt `json:"receipt"`
	Findings []Finding     `json:"findings"`
}

// OK tells whether nothing is wrong.
func (r Report) OK() bool {
	return !slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Verdict == Wrong })
}

func (r *Report) add(v Verdict, what, format string, args ...any) {
	r.Findings = append(r.Findings, Finding{v, what, fmt.Sprintf(format, args...)})
}

// judge adds a finding about something that was looked at.
func (r *Report) judge(err error, what, format string, args ...any) {
	if err != nil {
		r.add(Wrong, what, "%s", err)
		return
	}
	r.add(Proved, what, format, args...)
}

// Options say what to look at besides the receipt itself.
type Options struct {
	Key  string    // did:key of the service that must have issued it; empty: whoever
	Data Data      // nil: CommP is not computed
	Node Node      // nil: the chain is not looked at
	Now  time.Time // when it is checked; zero: any time that a receipt names is believed
}

// Verify checks a receipt. The error says that something could not be looked at; what is wrong with the receipt is in
// the report.
func Verify(ctx context.Context, content []byte, o Options) (Report, error) {
	var out Report
	r, err := deals.ReadReceipt(content)
	if err != nil {
		out.add(Wrong, "receipt", "%s", err)
		return out, nil //nolint:nilerr // that is the finding
	}
	out.Receipt = r
	issued, err := time.Parse(time.RFC3339, r.IssuedAt)
	switch {
	case err != nil:
		out.add(Wrong, "receipt", "reading when it was issued: %s", err)
		return out, nil //nolint:nilerr // that is the finding
	case !o.Now.IsZero() && issued.After(o.Now.Add(clockSkew)):
		out.add(Wrong, "receipt", "it was issued at %s, which is in the future", r.IssuedAt)
	}
	out.add(Proved, "receipt", "signed by the service %q at %s, and not changed since", r.Service, r.IssuedAt)
	switch o.Key {
	case "":
		out.add(Open, "service key", "%s: compare it with the key that the service publishes", r.Key)
	case r.Key:
		out.add(Proved, "service key", "%s", r.Key)
	default:
		out.add(Wrong, "service key", "%s, not %s", r.Key, o.Key)
	}
	natural, err := pieceOf(r.Piece, r.CARSize)
	if err != nil {
		out.add(Wrong, "piece", "%s", err)
		return out, nil //nolint:nilerr // that is the finding
	}
	for _, d := range r.Deals {
		if err := out.deal(ctx, r, d, natural, issued, o.Node); err != nil {
			return out, err
		}
	}
	if o.Data == nil {
		out.add(Open, "data", "CommP was not computed: give the CAR, or a gateway to fetch it from")
		return out, nil
	}
	found, err := o.Data.Piece(ctx, r)
	if wrong := (*DataError)(nil); errors.As(err, &wrong) {
		out.add(Wrong, "data", "%s", err)
		return out, nil
	}
	if err != nil {
		return out, fmt.Errorf("computing CommP: %w", err)
	}
	if found.CIDv1 != natural.CIDv1 || found.CARSize != natural.CARSize {
		out.add(Wrong, "data", "the CAR of %s is the piece %s of %d bytes, not %s of %d", r.Root, found.CIDv1, found.CARSize,
			natural.CIDv1, natural.CARSize)
		return out, nil
	}
	out.add(Proved, "data", "the CAR of %s has %d bytes and the commitment %s", r.Root, found.CARSize, found.CIDv1)
	return out, nil
}

// deal checks one deal.
func (r *Report) deal(ctx context.Context, receipt deals.Receipt, d deals.ReceiptDeal, natural piece.Piece, issued time.Time, node Node) error {
	name := fmt.Sprintf("deal with %s (%s)", d.Provider, d.UUID)
	signed, err := d.Signed()
	if err == nil {
		err = describes(receipt, d, signed.Proposal, natural)
	}
	if err != nil {
		r.add(Wrong, name, "%s", err)
		return nil //nolint:nilerr // that is the finding
	}
	r.add(Proved, name, "the proposal %s is for this data: epochs %d to %d, %s attoFIL per epoch", d.ProposalCID, d.StartEpoch,
		d.EndEpoch, d.PricePerEpoch)
	if err := r.signature(ctx, name, signed, node); err != nil {
		return err
	}
	if node == nil {
		r.add(Open, name, "%s, as the service saw it at height %d: ask a node (--lotus)", d.State, d.SeenAtHeight)
		return nil
	}
	return r.chain(ctx, name, d, signed.Proposal, issued, node)
}

// signature checks the client's signature of a proposal.
func (r *Report) signature(ctx context.Context, name string, signed market.ClientDealProposal, node Node) error {
	var message bytes.Buffer
	if err := signed.Proposal.MarshalCBOR(&message); err != nil {
		return fmt.Errorf("encoding a proposal: %w", err)
	}
	client, signature := signed.Proposal.Client, signed.ClientSignature
	err := checkSignature(client, message.Bytes(), signature)
	if errors.Is(err, errBLS) && node != nil {
		ok, nodeErr := node.WalletVerify(ctx, client, message.Bytes(), &signature)
		if nodeErr != nil {
			return fmt.Errorf("asking the node about a signature: %w", nodeErr)
		}
		if err = nil; !ok {
			err = errSignature
		}
	}
	r.judge(err, name, "signed by the client %s", client)
	return nil
}

var (
	errSignature = errors.New("the client's signature does not fit the proposal")
	errBLS       = errors.New("the client signed with a BLS key, which only a node can check: give one (--lotus)")
)

// checkSignature verifies with the code that Lotus has for that, as far as it can be linked.
func checkSignature(client address.Address, message []byte, s crypto.Signature) error {
	const recoverable = 65 // bytes of a signature from which the key is recovered
	kinds := map[address.Protocol]crypto.SigType{
		address.SECP256K1: crypto.SigTypeSecp256k1, address.Delegated: crypto.SigTypeDelegated, address.BLS: crypto.SigTypeBLS,
	}
	kind, ok := kinds[client.Protocol()]
	switch {
	case !ok:
		return fmt.Errorf("the client %s is no address of a key", client)
	case kind != s.Type:
		return errSignature
	case kind == crypto.SigTypeBLS:
		return errBLS
	case len(s.Data) != recoverable || sigs.Verify(&s, client, message) != nil:
		return errSignature
	}
	return nil
}

// describes tells whether the receipt says of a deal what the proposal says, and the proposal is for the DAG.
func describes(receipt deals.Receipt, d deals.ReceiptDeal, p market.DealProposal, natural piece.Piece) error {
	own, err := pieceOf(d.Piece, receipt.CARSize)
	if err != nil {
		return err
	}
	padded, err := natural.PadTo(own.Size)
	if err != nil {
		return fmt.Errorf("the piece of the deal is not the CAR: %w", err)
	}
	provider, err := deals.ParseProvider(d.Provider)
	if err != nil {
		return err
	}
	client, err := address.NewFromString(d.Client)
	if err != nil {
		return fmt.Errorf("reading the client: %w", err)
	}
	id, err := p.Cid()
	if err != nil {
		return fmt.Errorf("naming the proposal: %w", err)
	}
	label, _ := p.Label.ToString() // bytes are no CID
	for _, c := range []struct {
		what string
		same bool
	}{
		{"the piece is not the CAR with zeros after it", padded.CIDv1 == own.CIDv1 && padded.CIDv2 == own.CIDv2 && padded.RawSize == own.RawSize},
		{"another piece was signed", p.PieceCID == own.CIDv1 && p.PieceSize == own.Size},
		{"another provider was signed", p.Provider == provider.Address()},
		{"another client signed", p.Client == client},
		{"another root was signed", label == receipt.Root},
		{"the proposal has another CID", id.String() == d.ProposalCID},
		{"other epochs were signed", int64(p.StartEpoch) == d.StartEpoch && int64(p.EndEpoch) == d.EndEpoch},
		{"another price was signed", p.StoragePricePerEpoch.String() == d.PricePerEpoch},
		{"use of datacap was signed otherwise", p.VerifiedDeal == d.Verified},
	} {
		if !c.same {
			return errors.New(c.what)
		}
	}
	return nil
}

// pieceOf reads a piece of a receipt.
func pieceOf(p deals.ReceiptPiece, car int64) (piece.Piece, error) {
	v1, err := cid.Decode(p.CID)
	if err != nil {
		return piece.Piece{}, fmt.Errorf("reading the piece CID: %w", err)
	}
	v2, err := cid.Decode(p.CIDv2)
	if err != nil {
		return piece.Piece{}, fmt.Errorf("reading the piece CID of version 2: %w", err)
	}
	if p.Size < 0 || p.RawSize < car || car <= 0 || piece.PieceSize(p.RawSize) != p.Padded() {
		return piece.Piece{}, fmt.Errorf("a CAR of %d bytes, %d with zeros, is no piece of %d bytes", car, p.RawSize, p.Size)
	}
	return piece.Piece{CIDv1: v1, CIDv2: v2, Size: p.Padded(), RawSize: p.RawSize, CARSize: car}, nil
}

// dealID reads the id of a deal; false when the receipt knows none.
func dealID(d deals.ReceiptDeal) (abi.DealID, bool, error) {
	if d.DealID == "" {
		return 0, false, nil
	}
	id, err := strconv.ParseUint(d.DealID, 10, 63)
	if err != nil {
		return 0, false, fmt.Errorf("reading the deal id %q: %w", d.DealID, err)
	}
	return abi.DealID(id), true, nil
}
