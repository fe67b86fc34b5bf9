//go:build !linux

package hot_test

func roles() map[string]func(dir string) error {
	return map[string]func(string) error{holderDir: beHolder}
}
