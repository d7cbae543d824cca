package disk

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strings"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// A sealed file says one thing (whose a folder is, how far an index was): one line
// of text, one line with its CRC-32C.

const sealedBytesMax = 4096

// ErrSeal says that a sealed file does not match its checksum.
var ErrSeal = errors.New("its checksum does not match")

// Seal returns the content of a sealed file.
func Seal(line string) []byte { return []byte(line + "\n" + sumLine(line) + "\n") }

func sumLine(line string) string {
	return fmt.Sprintf("crc32c %08x", crc32.Checksum([]byte(line), crc32.MakeTable(crc32.Castagnoli)))
}

// Unseal returns the line of a sealed file's content; ErrSeal when it is damaged.
func Unseal(content []byte) (line string, err error) {
	line, sum, _ := strings.Cut(string(content), "\n")
	if strings.TrimSpace(sum) != sumLine(line) {
		return "", ErrSeal
	}
	return line, nil
}

// WriteSealed writes the file whole or not at all (WriteFile).
func WriteSealed(fs vfs.FS, path string, c vfs.DiskWriteCategory, line string) error {
	return WriteFile(fs, path, c, Seal(line))
}

// ReadSealed returns the line; found is false when there is no such file. ErrSeal
// when it is damaged.
func ReadSealed(fs vfs.FS, path string) (line string, found bool, err error) {
	f, err := fs.Open(path)
	if oserror.IsNotExist(err) {
		return "", false, nil
	}
	if err != nil {
		return "", false, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, sealedBytesMax))
	if err != nil {
		return "", false, err
	}
	line, err = Unseal(b)
	return line, true, err
}
