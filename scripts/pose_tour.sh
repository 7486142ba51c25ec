#!/bin/sh
# The whole pose chain on the synthetic model that ships: convert, verify, coarse, refine, evaluate, film, picture, page.
# Writes below pose_tour/, which it renews, or below the new folder given as argument. HPM_BIN chooses another hpm
# command, split at spaces. Run scripts/setup.sh first.
set -eu
here=$(pwd)
cd "$(dirname "$0")/.."
hpm=${HPM_BIN:-.venv/bin/hpm}
case ${1:-} in
    "") out=pose_tour ;;
    /*) out=$1 ;;
    *) out=$here/$1 ;;
esac
if [ $# -eq 0 ]; then
    rm -rf "$out"
elif [ -e "$out" ]; then
    echo "$out exists; a new folder was expected" >&2
    exit 2
fi
mkdir -p "$out"
shipped=reference_outputs/synthetic_pose
data=$shipped/data
# The test set that ships holds three of the fifteen actions: Discussion, Sitting and Walking.
actions=2,8,13

say() { printf '\n== %s\n' "$*"; }

say "convert: prototxt, caffemodel and the bounds of its poses to a .pt"
$hpm convert "$shipped/deploy.prototxt" "$shipped/synthetic_pose.caffemodel" -o "$out/synthetic_pose.pt" \
    --bounds "$data/16point_mean_limb_scaled_max_min.csv"

say "verify: every blob against the recorded outputs, noted in the .pt (refinement asks for it)"
$hpm verify "$out/synthetic_pose.pt" --reference "$shipped/outputs.h5"

say "coarse: poses from pictures"
$hpm coarse "$out/synthetic_pose.pt" --data-dir "$data" --save "$out/coarse" --actions $actions

for mode in faithful independent; do
    say "refine, $mode: by the true 2D poses"
    $hpm refine --model "$out/synthetic_pose.pt" --pose2d gt --coarse-3d "$out/coarse" --data-dir "$data" \
        --save "$out/refined_$mode" --actions $actions --mode $mode
    say "evaluate, $mode: errors in mm"
    $hpm evaluate --data-dir "$data" --coarse-3d "$out/coarse" --refined "$out/refined_$mode" --actions $actions \
        -o "$out/errors_$mode.md"
    cat "$out/errors_$mode.md"
done

say "predict: pictures of a walk as a film, the frames beside the poses"
$hpm predict "$data/h36m/images/S9_Walking_1_cam1" --model "$out/synthetic_pose.pt" --save "$out/predicted" \
    --overlay "$out/side_by_side.mp4"

say "visualize: a picture and a page with a 3D view to turn"
for picture in walking.png walking.html; do
    $hpm visualize --data-dir "$data" --action 13 --coarse-3d "$out/coarse" --refined "$out/refined_faithful" \
        -o "$out/$picture"
done
