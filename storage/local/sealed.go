package local

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2/vfs"

	"mailnode/storage/blob"
	"mailnode/storage/event"
)

// A sealed file says one thing of a copy, outside its index (SLOT, HEAD, REINDEX,
// PACKS): one line of text, one line with its CRC-32C.

const sealedBytesMax = 4096

// errSeal says that a sealed file does not match its checksum.
var errSeal = errors.New("its checksum does not match")

func sumLine(line string) string {
	return fmt.Sprintf("crc32c %08x", event.Checksum([]byte(line)))
}

// writeSealed writes the file whole or not at all (blob.WriteFile).
func writeSealed(fs vfs.FS, path string, c vfs.DiskWriteCategory, line string) error {
	return blob.WriteFile(fs, path, c, []byte(line+"\n"+sumLine(line)+"\n"))
}

// readSealed gives the line; found is false when there is no such file. errSeal
// when it is damaged.
func readSealed(fs vfs.FS, path string) (line string, found bool, err error) {
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
	line, sum, _ := strings.Cut(string(b), "\n")
	if strings.TrimSpace(sum) != sumLine(line) {
		return "", true, errSeal
	}
	return line, true, nil
}
