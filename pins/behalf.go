package pins

import "context"

type behalfKey struct{}

// OnBehalf says in a context for whom something is done, so that a tier can be fair to accounts.
func OnBehalf(ctx context.Context, a Account) context.Context {
	return context.WithValue(ctx, behalfKey{}, a)
}

// BehalfOf returns what OnBehalf has said; zero for nobody.
func BehalfOf(ctx context.Context) Account {
	a, _ := ctx.Value(behalfKey{}).(Account)
	return a
}
