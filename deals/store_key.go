package deals

import (
	"context"
	"crypto/rand"

	"gorm.io/gorm"
)

// TokenKey returns the key of the tokens with which providers fetch pieces. All servers of a database have the same one,
// because any of them may be asked for the pieces of a deal that another one has made. The first to ask brings it: own,
// or a new one where it has none.
func TokenKey(ctx context.Context, db DB, own []byte) (key []byte, err error) {
	if len(own) < minSecret {
		own = make([]byte, minSecret)
		_, _ = rand.Read(own) // never fails
	}
	err = db.Write(ctx, func(tx *gorm.DB) error {
		if err := tx.Exec(`INSERT INTO piece_key (id, secret) VALUES (1, ?) ON CONFLICT DO NOTHING`, own).Error; err != nil {
			return err
		}
		return tx.Raw(`SELECT secret FROM piece_key WHERE id = 1`).Row().Scan(&key)
	})
	return key, err
}
