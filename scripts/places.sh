# Where scripts/install puts things, and scripts/uninstall finds them. Sourced, never run.
# shellcheck disable=SC2034  # used by both

home=/opt/ispd
config=/etc/ispd/ispd.toml
declare -A places=(
    [ispd.service]=/etc/systemd/system/ispd.service
    [ispd.socket]=/etc/systemd/system/ispd.socket
    [ispd.rules]=/etc/udev/rules.d/70-ispd.rules
    [ispd.sysusers]=/etc/sysusers.d/ispd.conf
    [ispd.tmpfiles]=/etc/tmpfiles.d/ispd.conf
    [org.ispd.Station1.conf]=/etc/dbus-1/system.d/org.ispd.Station1.conf
    [org.ispd.Station1.service]=/usr/local/share/dbus-1/system-services/org.ispd.Station1.service
    [org.ispd.Station1.policy]=/usr/share/polkit-1/actions/org.ispd.Station1.policy
)
