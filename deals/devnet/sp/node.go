package sp

import (
	"context"

	"github.com/filecoin-project/go-address"
	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/crypto"
	"github.com/filecoin-project/go-state-types/network"
	"github.com/filecoin-project/lotus/api"
	"github.com/filecoin-project/lotus/chain/actors/builtin/miner"
	"github.com/filecoin-project/lotus/chain/actors/builtin/verifreg"
	"github.com/filecoin-project/lotus/chain/types"
	"github.com/ipfs/go-cid"
)

// A Node is what a provider needs of a Lotus node; every api.FullNode is one. The worker's key is in its wallet.
type Node interface {
	ChainHead(ctx context.Context) (*types.TipSet, error)
	ChainNotify(ctx context.Context) (<-chan []*api.HeadChange, error)
	MpoolPushMessage(ctx context.Context, msg *types.Message, spec *api.MessageSendSpec) (*types.SignedMessage, error)
	StateAccountKey(ctx context.Context, addr address.Address, tsk types.TipSetKey) (address.Address, error)
	StateDealProviderCollateralBounds(ctx context.Context, size abi.PaddedPieceSize, verified bool, tsk types.TipSetKey) (api.DealCollateralBounds, error)
	StateGetAllocationIdForPendingDeal(ctx context.Context, deal abi.DealID, tsk types.TipSetKey) (verifreg.AllocationId, error)
	StateLookupID(ctx context.Context, addr address.Address, tsk types.TipSetKey) (address.Address, error)
	StateMarketBalance(ctx context.Context, addr address.Address, tsk types.TipSetKey) (api.MarketBalance, error)
	StateMarketStorageDeal(ctx context.Context, deal abi.DealID, tsk types.TipSetKey) (*api.MarketDeal, error)
	StateMinerInfo(ctx context.Context, miner address.Address, tsk types.TipSetKey) (api.MinerInfo, error)
	StateNetworkVersion(ctx context.Context, tsk types.TipSetKey) (network.Version, error)
	StateSearchMsg(ctx context.Context, from types.TipSetKey, msg cid.Cid, limit abi.ChainEpoch, allowReplaced bool) (*api.MsgLookup, error)
	StateSectorPartition(ctx context.Context, maddr address.Address, sector abi.SectorNumber, tsk types.TipSetKey) (*miner.SectorLocation, error)
	StateVerifiedClientStatus(ctx context.Context, addr address.Address, tsk types.TipSetKey) (*abi.StoragePower, error)
	WalletSign(ctx context.Context, signer address.Address, data []byte) (*crypto.Signature, error)
	WalletVerify(ctx context.Context, signer address.Address, data []byte, sig *crypto.Signature) (bool, error)
}

var _ Node = api.FullNode(nil)
