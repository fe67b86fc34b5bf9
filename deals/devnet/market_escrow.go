package devnet

import (
	"slices"

	"github.com/filecoin-project/go-address"
	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/big"
	"github.com/filecoin-project/go-state-types/builtin"
	market18 "github.com/filecoin-project/go-state-types/builtin/v18/market"
	"github.com/filecoin-project/go-state-types/builtin/v18/util/adt"
	"github.com/filecoin-project/go-state-types/exitcode"
)

// Balances. Escrow is everything an address holds in the market; locked is the part of it that deals need.

func balance(t *adt.Map, of address.Address) (abi.TokenAmount, error) {
	amount := big.Zero()
	if _, err := t.Get(abi.AddrKey(of), &amount); err != nil {
		return big.Zero(), err
	}
	return amount, nil
}

func addBalance(t *adt.Map, of address.Address, amount abi.TokenAmount) error {
	have, err := balance(t, of)
	if err != nil {
		return err
	}
	sum := big.Add(have, amount)
	switch sum.Sign() {
	case -1:
		return abort(exitcode.ErrInsufficientFunds, "balance of %s is %s, cannot subtract %s", of, have, amount.Neg())
	case 0:
		_, err = t.TryDelete(abi.AddrKey(of))
		return err
	default:
		return t.Put(abi.AddrKey(of), &sum)
	}
}

func (k *market) addEscrow(of address.Address, amount abi.TokenAmount) error {
	t, err := k.escrow()
	if err != nil {
		return err
	}
	return addBalance(t, of, amount)
}

// covered tells whether the free escrow of an address can take another lock of the amount.
func (k *market) covered(of address.Address, amount abi.TokenAmount) (bool, error) {
	free, err := k.free(of)
	if err != nil {
		return false, err
	}
	return free.GreaterThanEqual(amount), nil
}

// purpose says which total of the market a lock counts in.
type purpose string

const (
	forClientCollateral   purpose = "client collateral"
	forProviderCollateral purpose = "provider collateral"
	forStorageFee         purpose = "storage fee"
)

func (k *market) total(why purpose) *abi.TokenAmount {
	switch why {
	case forClientCollateral:
		return &k.st.TotalClientLockedCollateral
	case forProviderCollateral:
		return &k.st.TotalProviderLockedCollateral
	case forStorageFee:
		return &k.st.TotalClientStorageFee
	}
	panic("unknown purpose " + string(why))
}

// lock moves the locked part up, or down for a negative amount.
func (k *market) lock(of address.Address, amount abi.TokenAmount, why purpose) error {
	t, err := k.locked()
	if err != nil {
		return err
	}
	if err := addBalance(t, of, amount); err != nil {
		return err
	}
	total := k.total(why)
	*total = big.Add(*total, amount)
	return nil
}

func (k *market) unlock(of address.Address, amount abi.TokenAmount, why purpose) error {
	return k.lock(of, amount.Neg(), why)
}

// pay moves locked fees of the client into the provider's free escrow.
func (k *market) pay(p *market18.DealProposal, amount abi.TokenAmount) error {
	if amount.Sign() <= 0 {
		return nil
	}
	if err := k.addEscrow(p.Client, amount.Neg()); err != nil {
		return err
	}
	if err := k.unlock(p.Client, amount, forStorageFee); err != nil {
		return err
	}
	return k.addEscrow(p.Provider, amount)
}

// slash takes the provider's collateral out of escrow. The caller burns it.
func (k *market) slash(p *market18.DealProposal) (abi.TokenAmount, error) {
	if err := k.addEscrow(p.Provider, p.ProviderCollateral.Neg()); err != nil {
		return big.Zero(), err
	}
	return p.ProviderCollateral, k.unlock(p.Provider, p.ProviderCollateral, forProviderCollateral)
}

func (m *machine) burn(amount abi.TokenAmount) error {
	if amount.Sign() <= 0 {
		return nil
	}
	return m.transfer(builtin.StorageMarketActorAddr, builtin.BurntFundsActorAddr, amount)
}

// free is the escrow of an address that no deal has locked.
func (k *market) free(of address.Address) (abi.TokenAmount, error) {
	escrow, err := k.escrow()
	if err != nil {
		return big.Zero(), err
	}
	locked, err := k.locked()
	if err != nil {
		return big.Zero(), err
	}
	have, err := balance(escrow, of)
	if err != nil {
		return big.Zero(), err
	}
	taken, err := balance(locked, of)
	if err != nil {
		return big.Zero(), err
	}
	return big.Sub(have, taken), nil
}

func (m *machine) addMarketBalance(c call) error {
	var who address.Address
	if err := c.decode(&who); err != nil {
		return err
	}
	if c.value.Sign() <= 0 {
		return abort(exitcode.ErrIllegalArgument, "balance to add must be greater than zero was: %s", c.value)
	}
	nominal, _, _, err := m.escrowParty(who)
	if err != nil {
		return err
	}
	k, err := m.openMarket()
	if err != nil {
		return err
	}
	if err := k.addEscrow(nominal, c.value); err != nil {
		return err
	}
	return k.commit()
}

func (m *machine) withdrawMarketBalance(c call) ([]byte, error) {
	var p market18.WithdrawBalanceParams
	if err := c.decode(&p); err != nil {
		return nil, err
	}
	if p.Amount.Sign() < 0 {
		return nil, abort(exitcode.ErrIllegalArgument, "negative amount: %s", p.Amount)
	}
	nominal, recipient, approved, err := m.escrowParty(p.ProviderOrClientAddress)
	if err != nil {
		return nil, err
	}
	if !containsAddress(approved, c.from) {
		return nil, abort(exitcode.SysErrForbidden, "caller %s is not one of supported", c.from)
	}
	k, err := m.openMarket()
	if err != nil {
		return nil, err
	}
	free, err := k.free(nominal)
	if err != nil {
		return nil, err
	}
	amount := big.Min(p.Amount, big.Max(big.Zero(), free))
	if err := k.addEscrow(nominal, amount.Neg()); err != nil {
		return nil, err
	}
	if err := k.commit(); err != nil {
		return nil, err
	}
	if err := m.transfer(builtin.StorageMarketActorAddr, recipient, amount); err != nil {
		return nil, err
	}
	return encode(&amount)
}

// escrowParty is the id under which an address has its escrow, who receives a withdrawal, and who may ask for one.
func (m *machine) escrowParty(a address.Address) (nominal, recipient address.Address, approved []address.Address, err error) {
	nominal, ok, err := m.resolve(a)
	if err != nil {
		return address.Undef, address.Undef, nil, err
	}
	if !ok {
		return address.Undef, address.Undef, nil, abort(exitcode.ErrIllegalArgument, "failed to resolve address %s", a)
	}
	isMiner, err := m.isMiner(nominal)
	if err != nil || !isMiner {
		return nominal, nominal, []address.Address{nominal}, err
	}
	_, info, err := m.openMiner(nominal)
	if err != nil {
		return address.Undef, address.Undef, nil, err
	}
	return nominal, info.Owner, []address.Address{info.Owner, info.Worker}, nil
}

func containsAddress(list []address.Address, a address.Address) bool {
	return slices.Contains(list, a)
}
