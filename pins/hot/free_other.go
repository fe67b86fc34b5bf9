//go:build !unix

package hot

// freeSpace tells how many bytes may still be written below dir, or -1.
func freeSpace(string) int64 { return -1 }
