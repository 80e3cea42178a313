#!/bin/sh
# Starts the browser that `make` extracted beside this file, with the libraries and fonts that came along with it.
here=$(cd "$(dirname "$0")" && pwd)
libraries=$(find "$here/usr/lib" -name '*.so*' ! -path '*/chromium/*' -exec dirname {} + | sort -u | paste -sd:)
[ -e "$here/fonts.conf" ] || cat >"$here/fonts.conf" <<END
<fontconfig>
  <dir>$here/usr/share/fonts</dir>
  <cachedir>$here/fonts</cachedir>
</fontconfig>
END
export LD_LIBRARY_PATH="$libraries" FONTCONFIG_FILE="$here/fonts.conf"
exec "$here/usr/lib/chromium/chromium-headless-shell" "$@"
