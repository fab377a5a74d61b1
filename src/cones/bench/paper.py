"""The paper's own numbers, to stand beside what is measured."""

# Table 1 of the paper: text and image alignment by method, for one to four subjects.
PAPER = {
    "textual-inversion": ((0.312, 0.744), (0.264, 0.630), (0.223, 0.584), (0.219, 0.553)),
    "dreambooth": ((0.344, 0.731), (0.283, 0.673), (0.263, 0.631), (0.238, 0.597)),
    "custom-diffusion": ((0.352, 0.722), (0.314, 0.685), (0.289, 0.669), (0.269, 0.632)),
    "cones": ((0.361, 0.725), (0.337, 0.698), (0.301, 0.685), (0.285, 0.653)),
}
# Table 2: megabytes and per cent, for one to four subjects, on Stable Diffusion 1.4.
STORED = ((1.43, 1.32), (3.41, 2.43), (4.96, 4.54), (7.75, 7.01))
NUMBERS = ("one subject", "two subjects", "three subjects", "four subjects")
