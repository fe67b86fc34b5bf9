package devnet

import (
	"context"
	"fmt"

	"github.com/filecoin-project/go-address"
	"github.com/filecoin-project/go-bitfield"
	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/big"
	"github.com/filecoin-project/go-state-types/builtin"
	"github.com/filecoin-project/go-state-types/builtin/v18/account"
	"github.com/filecoin-project/go-state-types/builtin/v18/datacap"
	init18 "github.com/filecoin-project/go-state-types/builtin/v18/init"
	market18 "github.com/filecoin-project/go-state-types/builtin/v18/market"
	miner18 "github.com/filecoin-project/go-state-types/builtin/v18/miner"
	power18 "github.com/filecoin-project/go-state-types/builtin/v18/power"
	reward18 "github.com/filecoin-project/go-state-types/builtin/v18/reward"
	"github.com/filecoin-project/go-state-types/builtin/v18/util/adt"
	"github.com/filecoin-project/go-state-types/builtin/v18/verifreg"
	"github.com/filecoin-project/go-state-types/manifest"
	_ "github.com/filecoin-project/lotus/build" // registers the actors' code CIDs
	"github.com/filecoin-project/lotus/chain/actors"
	"github.com/filecoin-project/lotus/chain/state"
	"github.com/filecoin-project/lotus/chain/types"
	"github.com/ipfs/go-cid"
	cbor "github.com/ipfs/go-ipld-cbor"
	cbg "github.com/whyrusleeping/cbor-gen"
)

// code holds the code CIDs by which a Lotus client tells the actors apart.
var code = struct{ account, init, reward, power, market, miner, verifreg, datacap cid.Cid }{
	account:  mustCode(manifest.AccountKey),
	init:     mustCode(manifest.InitKey),
	reward:   mustCode(manifest.RewardKey),
	power:    mustCode(manifest.PowerKey),
	market:   mustCode(manifest.MarketKey),
	miner:    mustCode(manifest.MinerKey),
	verifreg: mustCode(manifest.VerifregKey),
	datacap:  mustCode(manifest.DatacapKey),
}

func mustCode(name string) cid.Cid {
	c, ok := actors.GetActorCodeID(actorsVersion, name)
	if !ok {
		panic(fmt.Sprintf("lotus knows no code for actor %s, version %d", name, actorsVersion))
	}
	return c
}

// Ids of a genesis block: accounts from 100, miners from 1000.
const (
	firstMinerID  = 1000
	maxMiners     = 400
	minerStartEra = 0
)

// endowment is an account of the genesis state.
type endowment struct {
	key     address.Address
	balance abi.TokenAmount
	dataCap abi.StoragePower // bytes; nil = not a verified client
}

// minerSeed is a storage provider of the genesis state; owner and worker must be endowed.
type minerSeed struct {
	owner, worker address.Address
	sectorSize    abi.SectorSize
}

// genesis writes the state tree of height 0.
func genesis(ctx context.Context, over *overlay, p *policy, network string, accounts []endowment, miners []minerSeed) (cid.Cid, error) {
	cst := cbor.NewCborStore(over)
	tree, err := state.NewStateTree(cst, types.StateTreeVersion5)
	if err != nil {
		return cid.Undef, fmt.Errorf("creating a state tree: %w", err)
	}
	m := &machine{ctx: ctx, policy: p, store: adt.WrapStore(ctx, cst), tree: tree}
	if err := m.createSingletons(network); err != nil {
		return cid.Undef, fmt.Errorf("creating system actors: %w", err)
	}
	for _, a := range accounts {
		id, err := m.createAccount(a.key)
		if err != nil {
			return cid.Undef, err
		}
		if err := m.credit(id, a.balance); err != nil {
			return cid.Undef, err
		}
		if !a.dataCap.Nil() && a.dataCap.Sign() > 0 {
			if err := m.mintDataCap(id, a.dataCap); err != nil {
				return cid.Undef, err
			}
		}
	}
	for i, seed := range miners {
		id, err := address.NewIDAddress(uint64(firstMinerID + i))
		if err != nil {
			return cid.Undef, err
		}
		if err := m.createMiner(id, seed); err != nil {
			return cid.Undef, fmt.Errorf("creating miner %s: %w", id, err)
		}
	}
	// Accounts that appear later get ids above the miners'.
	var st init18.State
	if err := m.load(builtin.InitActorAddr, &st); err != nil {
		return cid.Undef, err
	}
	st.NextID = abi.ActorID(firstMinerID + maxMiners)
	if err := m.save(builtin.InitActorAddr, &st); err != nil {
		return cid.Undef, err
	}
	root, err := tree.Flush(ctx)
	if err != nil {
		return cid.Undef, fmt.Errorf("writing the state tree: %w", err)
	}
	return root, nil
}

func (m *machine) create(id address.Address, c cid.Cid, st cbg.CBORMarshaler) error {
	head, err := m.store.Put(m.ctx, st)
	if err != nil {
		return fmt.Errorf("storing state of %s: %w", id, err)
	}
	return m.tree.SetActor(id, &types.Actor{Code: c, Head: head, Balance: big.Zero()})
}

func (m *machine) createSingletons(network string) error {
	initial, err := init18.ConstructState(m.store, network)
	if err != nil {
		return err
	}
	if err := m.create(builtin.InitActorAddr, code.init, initial); err != nil {
		return err
	}
	reward := reward18.ConstructState(big.Zero())
	reward.ThisEpochBaselinePower = m.policy.baselinePower
	if err := m.create(builtin.RewardActorAddr, code.reward, reward); err != nil {
		return err
	}
	power, err := power18.ConstructState(m.store)
	if err != nil {
		return err
	}
	if err := m.create(builtin.StoragePowerActorAddr, code.power, power); err != nil {
		return err
	}
	market, err := market18.ConstructState(m.store)
	if err != nil {
		return err
	}
	market.NextID = 1 // as where the genesis block has deals: in the status protocol 0 means that there is none
	if err := m.create(builtin.StorageMarketActorAddr, code.market, market); err != nil {
		return err
	}
	registry, err := verifreg.ConstructState(m.store, builtin.SystemActorAddr)
	if err != nil {
		return err
	}
	if err := m.create(builtin.VerifiedRegistryActorAddr, code.verifreg, registry); err != nil {
		return err
	}
	caps, err := datacap.ConstructState(m.store, builtin.VerifiedRegistryActorAddr, builtin.DefaultHamtBitwidth)
	if err != nil {
		return err
	}
	if err := m.create(builtin.DatacapActorAddr, code.datacap, caps); err != nil {
		return err
	}
	return m.create(builtin.BurntFundsActorAddr, code.account, &account.State{Address: builtin.BurntFundsActorAddr})
}

// createAccount registers a key and returns its id address.
func (m *machine) createAccount(key address.Address) (address.Address, error) {
	id, err := m.tree.RegisterNewAddress(key)
	if err != nil {
		return address.Undef, fmt.Errorf("registering %s: %w", key, err)
	}
	return id, m.create(id, code.account, &account.State{Address: key})
}

func (m *machine) createMiner(id address.Address, seed minerSeed) error {
	owner, err := m.tree.LookupIDAddress(seed.owner)
	if err != nil {
		return err
	}
	worker, err := m.tree.LookupIDAddress(seed.worker)
	if err != nil {
		return err
	}
	proof, ok := windowProofs[seed.sectorSize]
	if !ok {
		return fmt.Errorf("no proof type for sectors of %d bytes", seed.sectorSize)
	}
	partition, err := builtin.PoStProofWindowPoStPartitionSectors(proof)
	if err != nil {
		return err
	}
	info, err := m.store.Put(m.ctx, &miner18.MinerInfo{
		Owner: owner, Worker: worker, Beneficiary: owner,
		BeneficiaryTerm:            miner18.BeneficiaryTerm{Quota: big.Zero(), UsedQuota: big.Zero()},
		WindowPoStProofType:        proof,
		SectorSize:                 seed.sectorSize,
		WindowPoStPartitionSectors: partition,
		ConsensusFaultElapsed:      epochUndefined,
	})
	if err != nil {
		return err
	}
	st, err := m.emptyMiner(info)
	if err != nil {
		return err
	}
	return m.create(id, code.miner, st)
}

func (m *machine) emptyMiner(info cid.Cid) (*miner18.State, error) {
	preCommitted, err := adt.StoreEmptyMap(m.store, builtin.DefaultHamtBitwidth)
	if err != nil {
		return nil, err
	}
	cleanUp, err := adt.StoreEmptyArray(m.store, miner18.PrecommitCleanUpAmtBitwidth)
	if err != nil {
		return nil, err
	}
	sectors, err := adt.StoreEmptyArray(m.store, miner18.SectorsAmtBitwidth)
	if err != nil {
		return nil, err
	}
	none := bitfield.New()
	allocated, err := m.store.Put(m.ctx, &none)
	if err != nil {
		return nil, err
	}
	deadline, err := miner18.ConstructDeadline(m.store)
	if err != nil {
		return nil, err
	}
	empty, err := m.store.Put(m.ctx, deadline)
	if err != nil {
		return nil, err
	}
	deadlines, err := m.store.Put(m.ctx, miner18.ConstructDeadlines(empty))
	if err != nil {
		return nil, err
	}
	return &miner18.State{
		Info:              info,
		PreCommitDeposits: big.Zero(), LockedFunds: big.Zero(), FeeDebt: big.Zero(), InitialPledge: big.Zero(),
		PreCommittedSectors: preCommitted, PreCommittedSectorsCleanUp: cleanUp,
		AllocatedSectors: allocated, Sectors: sectors, Deadlines: deadlines,
		ProvingPeriodStart: minerStartEra, EarlyTerminations: bitfield.New(),
	}, nil
}

var windowProofs = map[abi.SectorSize]abi.RegisteredPoStProof{
	2 << 10:   abi.RegisteredPoStProof_StackedDrgWindow2KiBV1_1,
	8 << 20:   abi.RegisteredPoStProof_StackedDrgWindow8MiBV1_1,
	512 << 20: abi.RegisteredPoStProof_StackedDrgWindow512MiBV1_1,
	32 << 30:  abi.RegisteredPoStProof_StackedDrgWindow32GiBV1_1,
	64 << 30:  abi.RegisteredPoStProof_StackedDrgWindow64GiBV1_1,
}
